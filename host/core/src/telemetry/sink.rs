//! Standard output and error of a serving process.
//!
//! Their reader may stop reading: a stalled log driver, a paused terminal, a supervisor without a
//! reader. So a serving thread never writes there itself, but passes its line to a separate thread.
//! Lines that can't be written wait, up to [`limits::LOG_WAITING_BYTES_MAX`]; further lines are
//! dropped and counted (`slotd_log_lines_dropped_total`). At its end, the process waits only
//! briefly for that thread ([`flush`]).
//!
//! Commands that only talk to a node don't [`start`] the threads and write directly.

use super::metrics;
use crate::limits;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};
use tracing_subscriber::fmt::MakeWriter;

/// One stream with the thread that writes it.
struct Sink {
    name: &'static str,
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread has bytes that are not written yet.
    writing: bool,
    /// Lines dropped since the last report.
    dropped: u64,
    /// The reader is gone.
    closed: bool,
}

struct Streams {
    out: Arc<Sink>,
    err: Arc<Sink>,
}

static STREAMS: OnceLock<Streams> = OnceLock::new();

/// From now on nothing in this process waits for a reader of its standard output and error. Calling
/// it again has no effect.
pub fn start() {
    STREAMS.get_or_init(|| Streams {
        out: Sink::start("standard output", io::stdout()),
        err: Sink::start("standard error", io::stderr()),
    });
}

/// Writes to standard output.
///
/// # Errors
/// The reader is gone; without [`start`], any error of the write.
pub fn out(bytes: &[u8]) -> io::Result<()> {
    match STREAMS.get() {
        Some(streams) => streams.out.give(bytes),
        None => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
    }
}

/// Writes to standard error.
///
/// # Errors
/// As [`out`].
pub fn err(bytes: &[u8]) -> io::Result<()> {
    match STREAMS.get() {
        Some(streams) => streams.err.give(bytes),
        None => io::stderr().lock().write_all(bytes),
    }
}

/// Waits until all queued output is written, up to a time limit: there may be no reader.
pub fn flush(wait: Duration) {
    let Some(Streams { out, err }) = STREAMS.get() else { return };
    let until = crate::clock::now() + wait;
    for sink in [out, err] {
        sink.flush(until);
    }
}

impl Sink {
    fn start(name: &'static str, to: impl AsFd + Send + 'static) -> Arc<Self> {
        let sink = Arc::new(Self {
            name,
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let own = sink.clone();
        let started = crate::thread::start("slotd-output", move || own.run(to));
        if started.is_err() {
            // The system can't create one more thread: output is counted as dropped.
            sink.state.lock().closed = true;
        }
        sink
    }

    /// Queues bytes, all or none; never waits.
    fn give(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let closed = state.closed;
        if closed || state.waiting.len() + bytes.len() > limits::LOG_WAITING_BYTES_MAX {
            state.dropped += 1;
            drop(state);
            metrics().log_lines_dropped.increment(1);
            return if closed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
        }
        state.waiting.extend_from_slice(bytes);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    fn flush(&self, until: Instant) {
        let mut state = self.state.lock();
        while (state.writing || !state.waiting.is_empty()) && !state.closed {
            if self.emptied.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    fn run(&self, to: impl AsFd) {
        let mut batch = Vec::new();
        loop {
            {
                let mut state = self.state.lock();
                state.writing = false;
                while state.waiting.is_empty() {
                    self.emptied.notify_all();
                    self.filled.wait(&mut state);
                }
                state.writing = true;
                std::mem::swap(&mut state.waiting, &mut batch);
            }
            // Not through `io::stderr()`: its other users would wait for its lock.
            let failed = write_all(&to, &batch).err();
            if let Some((lost, why)) = failed {
                let lines = lost.iter().filter(|byte| **byte == b'\n').count() as u64;
                metrics().log_lines_dropped.increment(lines);
                let mut state = self.state.lock();
                state.dropped += lines;
                if is_for_good(why) {
                    (state.closed, state.writing) = (true, false);
                    self.emptied.notify_all();
                    return;
                }
            }
            let failed = failed.is_some();
            batch.clear();
            // A burst must not keep its memory.
            batch.shrink_to(limits::LOG_LINE_BYTES_MAX);
            if failed {
                // A full disk stays full for a while. No line reports it here: that line could not
                // be written either.
                thread::sleep(limits::LOG_FAILED_PAUSE);
                continue;
            }
            let dropped = std::mem::take(&mut self.state.lock().dropped);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines were dropped: {} was read too slowly, or could not be written",
                    self.name
                );
            }
        }
    }
}

/// Whether every later write must fail: the reader, the terminal or the device is gone.
fn is_for_good(why: Errno) -> bool {
    matches!(why, Errno::PIPE | Errno::BADF | Errno::IO | Errno::NXIO | Errno::NODEV)
}

/// Writes everything, however long that takes.
///
/// # Errors
/// What could not be written, and why.
fn write_all<'a>(to: &impl AsFd, mut bytes: &'a [u8]) -> Result<(), (&'a [u8], Errno)> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Another process sharing the stream has made it non-blocking.
            Err(Errno::AGAIN) => thread::sleep(limits::LOG_RETRY),
            Err(why) => return Err((bytes, why)),
        }
    }
    Ok(())
}

/// The log's writer: one line per write, as `tracing_subscriber` does it.
#[derive(Clone, Copy)]
pub struct Log {
    /// JSON has its own escapes for the characters that [`super::text`] filters.
    pub json: bool,
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let given = line.len();
        let text = std::str::from_utf8(line).ok().filter(|_| self.json);
        let _ = match text.and_then(crate::text::in_json) {
            Some(clean) => err(clean.as_bytes()),
            None => err(line),
        };
        Ok(given)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead as _, os::fd::OwnedFd};

    fn line(number: usize) -> Vec<u8> {
        format!("{number:0>999}\n").into_bytes()
    }

    /// A pipe that nobody read stopped every thread that logged, and with them the node.
    #[test]
    fn a_pipe_that_nobody_reads_holds_up_nobody() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::start("a pipe", OwnedFd::from(writer));
        let given = 3 * limits::LOG_WAITING_BYTES_MAX / 1_000;
        // On this thread: it would hang here.
        for number in 0..given {
            sink.give(&line(number)).unwrap();
        }
        sink.flush(Instant::now() + Duration::from_millis(50));
        let dropped = sink.state.lock().dropped;
        assert!(sink.state.lock().waiting.len() <= limits::LOG_WAITING_BYTES_MAX);
        assert!(dropped as usize > given / 3 && (dropped as usize) < given, "{dropped} of {given}");
        // Once it is read, the queued output appears in whole lines and in order.
        let reading = thread::spawn(move || {
            let (mut lines, last) = (Vec::new(), line(given));
            for read in io::BufReader::new(&mut reader).split(b'\n') {
                lines.push(read.unwrap());
                if lines.last().is_some_and(|read| read[..] == last[..999]) {
                    return lines;
                }
            }
            panic!("the pipe ended");
        });
        sink.flush(Instant::now() + Duration::from_secs(60));
        sink.give(&line(given)).unwrap();
        let lines = reading.join().unwrap();
        assert_eq!(lines.len(), given - dropped as usize + 1);
        let numbers: Vec<usize> =
            lines.iter().map(|line| std::str::from_utf8(line).unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next));
    }

    /// A line reporting lost lines was itself lost, and so on without a pause.
    #[test]
    fn a_full_disk_is_not_written_to_without_pause() {
        let (full, lost) = (std::fs::File::options().write(true).open("/dev/full").unwrap(), 3);
        let sink = Sink::start("a full disk", full);
        for number in 1..=lost {
            sink.give(&line(number)).unwrap();
            while sink.state.lock().dropped < number as u64 {
                thread::yield_now();
            }
        }
        let state = sink.state.lock();
        assert!(!state.closed && state.waiting.is_empty(), "there may be room again");
        assert_eq!(state.dropped, lost as u64, "what was lost is said once something is written");
    }

    /// `slotd dev` ends when nobody reads its output.
    #[test]
    fn a_reader_that_has_gone_is_told_to_whoever_writes() {
        let (reader, writer) = io::pipe().unwrap();
        let sink = Sink::start("a pipe", OwnedFd::from(writer));
        drop(reader);
        let failure = (0..10_000).find_map(|number| {
            let given = sink.give(&line(number));
            sink.flush(Instant::now() + Duration::from_secs(60));
            given.err()
        });
        assert_eq!(failure.map(|error| error.kind()), Some(io::ErrorKind::BrokenPipe));
    }
}
