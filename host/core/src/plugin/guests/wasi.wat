;; A guest for tests that uses WASI: the first byte of a message says what of it.
(component
;;TYPES
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error))
  (import "wasi:io/poll@0.2.3" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.3" (instance $streams
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (export "output-stream" (type $out (sub resource)))
    (type $se (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $se)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.3" (instance $stdout
    (alias outer 1 $output-stream (type $o'))
    (export "output-stream" (type $o (eq $o')))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/exit@0.2.3" (instance $exit
    (export "exit" (func (param "status" (result))))))
  (import "wasi:cli/environment@0.2.3" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))))
  (import "wasi:clocks/monotonic-clock@0.2.3" (instance $monotonic
    (alias outer 1 $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:clocks/wall-clock@0.2.3" (instance $wall
    (type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $d)))
    (export "now" (func (result $datetime)))))
  (import "wasi:random/random@0.2.3" (instance $random
    (export "get-random-u64" (func (result u64)))
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (import "wasi:random/insecure@0.2.3" (instance $insecure
    (export "get-insecure-random-u64" (func (result u64)))))
  (import "wasi:random/insecure-seed@0.2.3" (instance $seed
    (export "insecure-seed" (func (result (tuple u64 u64))))))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $print (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory $libc "memory")))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $exit (canon lower (func $exit "exit")))
  (core func $environment (canon lower (func $environment "get-environment")
    (memory $libc "memory") (realloc (func $libc "realloc"))))
  (core func $now (canon lower (func $monotonic "now")))
  (core func $subscribe (canon lower (func $monotonic "subscribe-duration")))
  (core func $wall (canon lower (func $wall "now") (memory $libc "memory")))
  (core func $random (canon lower (func $random "get-random-u64")))
  (core func $bytes (canon lower (func $random "get-random-bytes")
    (memory $libc "memory") (realloc (func $libc "realloc"))))
  (core func $insecure (canon lower (func $insecure "get-insecure-random-u64")))
  (core func $seed (canon lower (func $seed "insecure-seed") (memory $libc "memory")))
  (core module $guest
    (import "libc" "memory" (memory 1))
    (import "host" "block" (func $block (param i32)))
    (import "host" "print" (func $print (param i32 i32 i32 i32)))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "environment" (func $environment (param i32)))
    (import "host" "now" (func $now (result i64)))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "wall" (func $wall (param i32)))
    (import "host" "random" (func $random (result i64)))
    (import "host" "bytes" (func $bytes (param i64 i32)))
    (import "host" "insecure" (func $insecure (result i64)))
    (import "host" "seed" (func $seed (param i32)))
    (func $reply (param $at i32) (param $len i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.store (i32.const 260) (i32.const 96))
      (i32.store (i32.const 264) (i32.const 0))
      (i32.store (i32.const 268) (local.get $at))
      (i32.store (i32.const 272) (local.get $len))
      (i32.const 256))
    (func $op (param $op i32) (param $at i32) (param $len i32) (result i32)
      (if (i32.eq (local.get $op) (i32.const 0x6e)) ;; n: now, on both clocks
        (then
          (i64.store (i32.const 320) (call $now))
          (call $wall (i32.const 328))
          (return (call $reply (i32.const 320) (i32.const 20)))))
      (if (i32.eq (local.get $op) (i32.const 0x72)) ;; r: random, secure and not
        (then
          (i64.store (i32.const 320) (call $random))
          (i64.store (i32.const 328) (call $insecure))
          (return (call $reply (i32.const 320) (i32.const 16)))))
      (if (i32.eq (local.get $op) (i32.const 0x52)) ;; R: too many random bytes
        (then (call $bytes (i64.const 100000) (i32.const 320))))
      (if (i32.eq (local.get $op) (i32.const 0x69)) ;; i: the seed of hash maps
        (then
          (call $seed (i32.const 320))
          (return (call $reply (i32.const 320) (i32.const 16)))))
      (if (i32.eq (local.get $op) (i32.const 0x73)) ;; s: sleep for an hour
        (then
          (call $block (call $subscribe (i64.const 3600000000000)))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x53)) ;; S: make timers without end
        (then (loop $l (drop (call $subscribe (i64.const 1))) (br $l))))
      (if (i32.eq (local.get $op) (i32.const 0x70)) ;; p: print
        (then
          (call $print (call $get-stdout) (local.get $at) (local.get $len) (i32.const 320))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x78)) ;; x: exit
        (then (call $exit (i32.const 1))))
      (if (i32.eq (local.get $op) (i32.const 0x76)) ;; v: how many variables
        (then
          (call $environment (i32.const 320))
          (return (call $reply (i32.const 324) (i32.const 4)))))
      unreachable)
    (func (export "handle") (param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32)
        (param $body i32) (param $body-len i32) (param i64) (result i32)
      (call $op (i32.load8_u (local.get $body)) (i32.add (i32.const 1) (local.get $body))
        (i32.sub (local.get $body-len) (i32.const 1))))
    (func (export "query") (param i32 i32 i64 i32 i32) (param $body i32) (param $body-len i32)
        (param i64) (result i32)
      (call $op (i32.load8_u (local.get $body)) (i32.add (i32.const 1) (local.get $body))
        (i32.sub (local.get $body-len) (i32.const 1))))
    (func (export "migrate") (param i32 i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.const 256))
  )
  (core instance $guest (instantiate $guest
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "block" (func $block)) (export "print" (func $print))
      (export "get-stdout" (func $get-stdout)) (export "exit" (func $exit))
      (export "environment" (func $environment)) (export "now" (func $now))
      (export "subscribe" (func $subscribe)) (export "wall" (func $wall))
      (export "random" (func $random)) (export "bytes" (func $bytes))
      (export "insecure" (func $insecure)) (export "seed" (func $seed))))))
  (type $answer (result $reply (error $rejection)))
  (func (export "handle") (param "message" $message) (result $answer)
    (canon lift (core func $guest "handle") (memory $libc "memory")
      (realloc (func $libc "realloc")) (post-return (func $libc "reset-after"))))
  (func (export "query") (param "query" $query-request) (result $answer)
    (canon lift (core func $guest "query") (memory $libc "memory")
      (realloc (func $libc "realloc")) (post-return (func $libc "reset-after"))))
  (func (export "migrate") (param "from" string) (result (result (error string)))
    (canon lift (core func $guest "migrate") (memory $libc "memory")
      (realloc (func $libc "realloc")) (post-return (func $libc "reset-after"))))
)
