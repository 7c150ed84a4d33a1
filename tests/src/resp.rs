//! RESP, the protocol of Redis: commands, and replies other than arrays.

use anyhow::{bail, ensure};

#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A simple or bulk string, or an integer.
    Text(&'a [u8]),
    Error(&'a [u8]),
    Nil,
}

/// Adds a command to the output.
pub fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for bytes in parts {
        out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in the input, and its length; `None` while it is incomplete.
///
/// # Errors
/// If it is invalid, or an array.
pub fn reply(read: &[u8]) -> anyhow::Result<Option<(Reply<'_>, usize)>> {
    let Some(end) = read.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let (line, body) = (read.get(1..end).unwrap_or_default(), end + 2);
    match read[0] {
        b'+' | b':' => Ok(Some((Reply::Text(line), body))),
        b'-' => Ok(Some((Reply::Error(line), body))),
        b'$' if line == b"-1" => Ok(Some((Reply::Nil, body))),
        b'$' => {
            let length: usize = std::str::from_utf8(line)?.parse()?;
            let Some(rest) = read.get(body..body + length + 2) else { return Ok(None) };
            ensure!(rest.ends_with(b"\r\n"), "a string that does not end where it says");
            Ok(Some((Reply::Text(&rest[..length]), body + length + 2)))
        }
        kind => bail!("a reply that begins with {:?}", char::from(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"XADD", b"s-1", b""]);
        assert_eq!(out, b"*3\r\n$4\r\nXADD\r\n$3\r\ns-1\r\n$0\r\n\r\n");
    }

    /// Half a reply taken for a complete one would count a message that is not durable.
    #[test]
    fn a_reply_is_whole_or_none() {
        let whole: [(&[u8], Reply); 6] = [
            (b"+PONG\r\n", Reply::Text(b"PONG")),
            (b":17\r\n", Reply::Text(b"17")),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b"$5\r\n1\r\n-0\r\n", Reply::Text(b"1\r\n-0")),
            (b"$0\r\n\r\n", Reply::Text(b"")),
            (b"$-1\r\n", Reply::Nil),
        ];
        for (bytes, expected) in whole {
            let two = [bytes, b"$1"].concat();
            assert_eq!(reply(&two).unwrap(), Some((expected, bytes.len())));
            for length in 0..bytes.len() {
                assert_eq!(reply(&bytes[..length]).unwrap(), None);
            }
        }
        for wrong in [&b"*1\r\n+a\r\n"[..], b"$x\r\n", b"$1\r\nabc", b"\r\n", b"HTTP/1.1 400\r\n"] {
            reply(wrong).unwrap_err();
        }
    }
}
