;; The smallest handler: returns an empty reply, writes a line to the log.
(module
    (import "slotd:slot/log@1.1.0" "write" (func $log (param i32 i32 i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle")
        (param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
        (call $log (i32.const 2) (i32.const 0) (i32.const 0)) (i32.const 512))
    (func (export "query") (param i32 i32 i64 i32 i32 i32 i32 i64) (result i32) (i32.const 512))
    (func (export "migrate") (param i32 i32) (result i32) (i32.const 512)))
