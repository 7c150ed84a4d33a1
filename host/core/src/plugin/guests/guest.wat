;; A guest for tests: the first byte of a message says what it does.
(component
  (@custom "version" "1.2.3")
;;TYPES
  (import "slotd:slot/state@1.0.0" (instance $state
    (export "get" (func (param "key" string) (result (option (list u8)))))
    (export "set" (func (param "key" string) (param "value" (list u8))))
    (export "delete" (func (param "key" string)))
    (export "scan" (func (param "prefix" string) (param "after" (option string))
      (param "limit" u32) (result (list (tuple string (list u8))))))
  ))
  (import "slotd:slot/effects@1.0.0" (instance $effects
    (alias outer 1 $event (type $e))
    (export "event" (type $event (eq $e)))
    (export "emit" (func (param "event" $event)))
  ))
  (import "slotd:slot/log@1.0.0" (instance $log
    (type $l (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $l)))
    (export "write" (func (param "level" $level) (param "message" string)))
  ))
  (core func $get (canon lower (func $state "get")
    (memory $libc "memory") (realloc (func $libc "realloc"))))
  (core func $set (canon lower (func $state "set") (memory $libc "memory")))
  (core func $delete (canon lower (func $state "delete") (memory $libc "memory")))
  (core func $scan (canon lower (func $state "scan")
    (memory $libc "memory") (realloc (func $libc "realloc"))))
  (core func $emit (canon lower (func $effects "emit") (memory $libc "memory")))
  (core func $write (canon lower (func $log "write") (memory $libc "memory")))
  (core module $guest
    (import "libc" "memory" (memory 1))
    (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "host" "get" (func $get (param i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32)))
    (import "host" "delete" (func $delete (param i32 i32)))
    (import "host" "scan" (func $scan (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "emit" (func $emit (param i32 i32 i32 i32 i32 i32)))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (data (i32.const 16) "k")
    (data (i32.const 32) "line of the guest")
    (data (i32.const 64) "note")
    (data (i32.const 96) "text/plain")
    (data (i32.const 112) "bad-luck")
    (data (i32.const 128) "it was not to be")
    (data (i32.const 160) "from")
    (global $calls (mut i32) (i32.const 0))
    ;;START
    ;; An answer lies at 256: a byte that tells ok from err, and at 260 what it holds.
    (func $reply (param $at i32) (param $len i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.store (i32.const 260) (i32.const 96))
      (i32.store (i32.const 264) (i32.const 10))
      (i32.store (i32.const 268) (local.get $at))
      (i32.store (i32.const 272) (local.get $len))
      (i32.const 256))
    (func $reject (param $message i32) (param $message-len i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 1))
      (i32.store (i32.const 260) (i32.const 112))
      (i32.store (i32.const 264) (i32.const 8))
      (i32.store (i32.const 268) (local.get $message))
      (i32.store (i32.const 272) (local.get $message-len))
      (i32.store8 (i32.const 276) (i32.const 1))
      (i32.const 256))
    (func $recurse (param i32) (result i32)
      (i32.add (i32.const 1) (call $recurse (i32.add (i32.const 1) (local.get 0)))))
    (func $get-k (result i32)
      (call $get (i32.const 16) (i32.const 1) (i32.const 320))
      (if (i32.load8_u (i32.const 320))
        (then (return (call $reply (i32.load (i32.const 324)) (i32.load (i32.const 328))))))
      (call $reject (i32.const 128) (i32.const 16)))
    (func $op (param $op i32) (param $at i32) (param $len i32) (result i32)
      (local $n i32)
      (if (i32.eq (local.get $op) (i32.const 0x65)) ;; e: echo
        (then (return (call $reply (local.get $at) (local.get $len)))))
      (if (i32.eq (local.get $op) (i32.const 0x67)) ;; g: get
        (then (return (call $get-k))))
      (if (i32.eq (local.get $op) (i32.const 0x73)) ;; s: set
        (then
          (call $set (i32.const 16) (i32.const 1) (local.get $at) (local.get $len))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x75)) ;; u: get and set
        (then
          (call $get (i32.const 16) (i32.const 1) (i32.const 320))
          (call $set (i32.const 16) (i32.const 1) (local.get $at) (local.get $len))
          (return (call $reply (local.get $at) (local.get $len)))))
      (if (i32.eq (local.get $op) (i32.const 0x64)) ;; d: delete
        (then
          (call $delete (i32.const 16) (i32.const 1))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x63)) ;; c: count by a scan
        (then
          (call $scan (local.get $at) (local.get $len) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 100000) (i32.const 320))
          (return (call $reply (i32.const 324) (i32.const 4)))))
      (if (i32.eq (local.get $op) (i32.const 0x6d)) ;; m: emit
        (then
          (call $emit (i32.const 64) (i32.const 4) (i32.const 96) (i32.const 10)
            (local.get $at) (local.get $len))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x4d)) ;; M: emit without end
        (then (loop $l
          (call $emit (i32.const 64) (i32.const 4) (i32.const 96) (i32.const 10)
            (local.get $at) (local.get $len))
          (br $l))))
      (if (i32.eq (local.get $op) (i32.const 0x4b)) ;; K: emit under a bad kind
        (then
          (call $emit (i32.const 32) (i32.const 17) (i32.const 96) (i32.const 10)
            (local.get $at) (local.get $len))))
      (if (i32.eq (local.get $op) (i32.const 0x6c)) ;; l: spin
        (then (loop $l (br $l))))
      (if (i32.eq (local.get $op) (i32.const 0x68)) ;; h: host calls without end
        (then (loop $l
          (call $get (i32.const 16) (i32.const 1) (i32.const 320)) (br $l))))
      (if (i32.eq (local.get $op) (i32.const 0x61)) ;; a: take all memory, then abort
        (then
          (loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
          unreachable))
      (if (i32.eq (local.get $op) (i32.const 0x72)) ;; r: recurse
        (then (drop (call $recurse (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x70)) ;; p: follow a bad pointer
        (then (drop (i32.load (i32.const -16)))))
      (if (i32.eq (local.get $op) (i32.const 0x74)) ;; t: trap
        (then
          (call $set (i32.const 16) (i32.const 1) (local.get $at) (local.get $len))
          unreachable))
      (if (i32.eq (local.get $op) (i32.const 0x78)) ;; x: reject
        (then
          (call $emit (i32.const 64) (i32.const 4) (i32.const 96) (i32.const 10)
            (local.get $at) (local.get $len))
          (return (call $reject (i32.const 128) (i32.const 16)))))
      (if (i32.eq (local.get $op) (i32.const 0x58)) ;; X: reject at length
        (then
          (return (call $reject (i32.const 8192) (i32.const 5000)))))
      (if (i32.eq (local.get $op) (i32.const 0x62)) ;; b: a reply of 1 MiB and 1 byte
        (then (return (call $reply
          (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1048577))
          (i32.const 1048577)))))
      (if (i32.eq (local.get $op) (i32.const 0x7a)) ;; z: a reply of 4 MiB
        (then (return (call $reply
          (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4194304))
          (i32.const 4194304)))))
      (if (i32.eq (local.get $op) (i32.const 0x76)) ;; v: a value of 4 MiB
        (then (call $set (i32.const 16) (i32.const 1)
          (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4194304))
          (i32.const 4194304))))
      (if (i32.eq (local.get $op) (i32.const 0x54)) ;; T: a reply with a bad content type
        (then
          (drop (call $reply (local.get $at) (i32.const 0)))
          (i32.store8 (i32.const 97) (i32.const 10))
          (return (i32.const 256))))
      (if (i32.eq (local.get $op) (i32.const 0x6f)) ;; o: log 1000 lines
        (then (loop $l
          (call $write (i32.const 2) (i32.const 32) (i32.const 17))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $n) (i32.const 1000))))
          (return (call $reply (local.get $at) (i32.const 0)))))
      (if (i32.eq (local.get $op) (i32.const 0x77)) ;; w: count the instance's calls
        (then
          (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (i32.store (i32.const 340) (global.get $calls))
          (return (call $reply (i32.const 340) (i32.const 4)))))
      unreachable)
    (func (export "handle") (param $session i32) (param $session-len i32) (param $seq i64)
        (param i32 i32 i32 i32 i32 i32 i32) (param $type i32) (param $type-len i32)
        (param $body i32) (param $body-len i32) (param $time i64) (result i32)
      (if (i32.eqz (local.get $body-len))
        (then (return (call $reply (local.get $session) (local.get $session-len)))))
      (call $op (i32.load8_u (local.get $body)) (i32.add (i32.const 1) (local.get $body))
        (i32.sub (local.get $body-len) (i32.const 1))))
    (func (export "query") (param $session i32) (param $session-len i32) (param $seq i64)
        (param $type i32) (param $type-len i32) (param $body i32) (param $body-len i32)
        (param $time i64) (result i32)
      (call $op (i32.load8_u (local.get $body)) (i32.add (i32.const 1) (local.get $body))
        (i32.sub (local.get $body-len) (i32.const 1))))
    (func (export "migrate") (param $from i32) (param $from-len i32) (result i32)
      (if (i32.eq (i32.load8_u (local.get $from)) (i32.const 0x21)) ;; !: refuse
        (then
          (i32.store8 (i32.const 256) (i32.const 1))
          (i32.store (i32.const 260) (i32.const 128))
          (i32.store (i32.const 264) (i32.const 16))
          (return (i32.const 256))))
      (if (i32.eq (i32.load8_u (local.get $from)) (i32.const 0x6d)) ;; m: emit
        (then (call $emit (i32.const 64) (i32.const 4) (i32.const 96) (i32.const 10)
          (local.get $from) (local.get $from-len))))
      (call $set (i32.const 160) (i32.const 4) (local.get $from) (local.get $from-len))
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.const 256))
  )
  (core instance $guest (instantiate $guest
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "get" (func $get)) (export "set" (func $set)) (export "delete" (func $delete))
      (export "scan" (func $scan)) (export "emit" (func $emit)) (export "write" (func $write))))))
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
