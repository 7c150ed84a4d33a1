//! Components that cost far more to check or to compile than their size suggests. Each is a valid
//! one with an unused part appended.

use crate::plugins::leb128;
use bytes::Bytes;
use std::fmt::Write as _;

const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
const COMPONENT_TYPE: u8 = 7;
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// `depth` nested empty components. Never pass it to a compiler without limits: validation needs
/// memory in the square of the depth.
pub fn nested_components(base: &[u8], depth: usize) -> Bytes {
    let mut heads = Vec::with_capacity(depth);
    let mut size = EMPTY_COMPONENT.len();
    for _ in 0..depth {
        let mut head = EMPTY_COMPONENT.to_vec();
        head.push(COMPONENT);
        leb128(&mut head, size);
        size += head.len();
        heads.push(head);
    }
    let inner: Vec<u8> =
        heads.into_iter().rev().flatten().chain(EMPTY_COMPONENT.iter().copied()).collect();
    with_section(base, COMPONENT, &inner)
}

/// Nested component types: three bytes per level, and a stack frame of the parser.
pub fn nested_types(base: &[u8], depth: usize) -> Bytes {
    let mut section = vec![1];
    for _ in 1..depth {
        // A component type of one declaration, which is a type.
        section.extend([0x41, 1, 1]);
    }
    section.extend([0x41, 0]);
    with_section(base, COMPONENT_TYPE, &section)
}

/// One function whose `br_table` has this many targets, over this many local variables.
pub fn branches(base: &[u8], targets: usize, locals: usize) -> Bytes {
    let mut body = Vec::new();
    leb128(&mut body, 1);
    leb128(&mut body, locals);
    body.push(0x7e);
    // block, local.get 0, i32.wrap_i64, br_table
    body.extend([0x02, 0x40, 0x20, 0, 0xa7, 0x0e]);
    leb128(&mut body, targets);
    body.extend(std::iter::repeat_n(0, targets + 1));
    // end of the block and of the function
    body.extend([0x0b, 0x0b]);
    with_section(base, CORE_MODULE, &module(&body))
}

/// An interpreter: a loop whose `br_table` selects one of this many blocks, each of which changes a
/// local variable and loops. The compiler keeps each variable live over each branch.
pub fn interpreter(base: &[u8], blocks: usize, locals: usize) -> Bytes {
    let mut body = Vec::new();
    leb128(&mut body, 1);
    leb128(&mut body, locals);
    body.push(0x7e);
    body.extend([0x03, 0x40]);
    body.extend(std::iter::repeat_n([0x02, 0x40], blocks).flatten());
    body.extend([0x20, 0, 0xa7, 0x0e]);
    leb128(&mut body, blocks - 1);
    for target in 0..blocks {
        leb128(&mut body, target);
    }
    for block in 0..blocks {
        // end; local.set a (i64.add (local.get a) (local.get b)); br to the loop
        body.push(0x0b);
        for (code, local) in [(0x20, block % locals), (0x20, (block * 7 + 1) % locals)] {
            body.push(code);
            leb128(&mut body, local);
        }
        body.extend([0x7c, 0x21]);
        leb128(&mut body, block % locals);
        body.push(0x0c);
        leb128(&mut body, blocks - 1 - block);
    }
    body.extend([0x0b, 0x0b]);
    with_section(base, CORE_MODULE, &module(&body))
}

/// This many component imports, none of which slotd provides.
pub fn many_imports(count: usize) -> Bytes {
    // Written by hand for full control over its structure: a function type, and imports.
    let mut out = EMPTY_COMPONENT.to_vec();
    section(&mut out, COMPONENT_TYPE, &[1, 0x40, 0, 1, 0]);
    let mut imports = Vec::new();
    leb128(&mut imports, count);
    for n in 0..count {
        let mut name = String::new();
        // Writing to a String can't fail.
        let _ = write!(name, "lacks-n{n}");
        imports.push(0);
        leb128(&mut imports, name.len());
        imports.extend(name.as_bytes());
        imports.extend([1, 0]);
    }
    section(&mut out, 10, &imports);
    out.into()
}

/// A module of one function.
fn module(body: &[u8]) -> Vec<u8> {
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    section(&mut out, 1, &[1, 0x60, 0, 0]);
    section(&mut out, 3, &[1, 0]);
    let mut code = vec![1];
    leb128(&mut code, body.len());
    code.extend(body);
    section(&mut out, 10, &code);
    out
}

fn with_section(base: &[u8], id: u8, contents: &[u8]) -> Bytes {
    let mut out = base.to_vec();
    section(&mut out, id, contents);
    out.into()
}

fn section(out: &mut Vec<u8>, id: u8, contents: &[u8]) {
    out.push(id);
    leb128(out, contents.len());
    out.extend(contents);
}
