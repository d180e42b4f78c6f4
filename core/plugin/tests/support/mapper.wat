;; A mapper that does what the number of its inputs says; see `ask` in `mod.rs`.
(module
  (import "dtta:plugin/tensor@0.1.0" "[method]tensor.neg" (func $neg (param i32 i32)))
  (import "dtta:plugin/tensor@0.1.0" "[method]tensor.share" (func $share (param i32 i32)))
  (import "dtta:plugin/tensor@0.1.0" "[method]tensor.read-floats" (func $read (param i32 i32)))
  (import "dtta:plugin/tensor@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))
  (import "dtta:plugin/session@0.1.0" "[resource-drop]values" (func $drop_values (param i32)))
  (import "dtta:plugin/session@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "[export]dtta:plugin/mapper@0.1.0" "[resource-new]mapper" (func $new (param i32) (result i32)))

  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (global $kept (mut i32) (i32.const 0))

  (data (i32.const 512) "invalid-config")
  (data (i32.const 544) "only the empty config will do")
  (data (i32.const 600) "out of cheese")
  (data (i32.const 1024) "DESCRIPTION")

  ;; Allocation only goes up; a call that returned starts over.
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $start_over (param i32)
    (global.set $heap (i32.const 65536)))

  ;; Results live at 16: a case, and from 20 on what it carries.
  (func $answer (param $case i32) (param $first i32) (param $second i32) (result i32)
    (i32.store (i32.const 16) (local.get $case))
    (i32.store (i32.const 20) (local.get $first))
    (i32.store (i32.const 24) (local.get $second))
    (i32.const 16))

  (func $deeper (param $depth i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get $depth) (i32.const 1))) (local.get $depth)))

  (func (export "dtta:plugin/descriptor@0.1.0#describe") (result i32)
    (i32.store (i32.const 16) (i32.const 1024))
    (i32.store (i32.const 20) (i32.const DESCRIPTION_LENGTH))
    (i32.const 16))
  (export "cabi_post_dtta:plugin/descriptor@0.1.0#describe" (func $start_over))

  (func (export "dtta:plugin/mapper@0.1.0#[static]mapper.create")
    (param $config i32) (param $config_length i32) (param $slots i32) (param $slots_length i32) (result i32)
    (if (i32.ne (local.get $config_length) (i32.const 2))
      (then
        (i32.store (i32.const 28) (i32.const 544))
        (i32.store (i32.const 32) (i32.const 29))
        (return (call $answer (i32.const 1) (i32.const 512) (i32.const 14)))))
    (call $answer (i32.const 0) (call $new (i32.const 7)) (i32.const 0)))
  (export "cabi_post_dtta:plugin/mapper@0.1.0#[static]mapper.create" (func $start_over))

  (func (export "dtta:plugin/mapper@0.1.0#[method]mapper.declare") (param $self i32) (result i32)
    (i64.store (i32.const 16) (i64.const 0))
    (i32.const 16))

  (func (export "dtta:plugin/mapper@0.1.0#[method]mapper.condition")
    (param $self i32) (param $inputs i32) (param $count i32) (param $values i32) (result i32)
    (local $tensor i32)
    (local $left i32)
    (call $drop_values (local.get $values)) ;; borrowed, so it may not be kept
    (local.set $tensor (i32.load (i32.add (local.get $inputs) (i32.const 8))))
    (local.set $left (i32.const 1000))

    (if (i32.eq (local.get $count) (i32.const 2))
      (then
        (call $log (i32.const 4) (i32.const 600) (i32.const 13))
        (unreachable)))
    (if (i32.eq (local.get $count) (i32.const 3))
      (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $count) (i32.const 4))
      (then (drop (memory.grow (i32.const 2000)))))
    (if (i32.eq (local.get $count) (i32.const 5))
      (then
        (global.set $kept (local.get $tensor))
        (return (call $answer (i32.const 0) (i32.add (local.get $inputs) (i32.const 12)) (i32.const 1)))))
    (if (i32.eq (local.get $count) (i32.const 6))
      (then
        (call $neg (global.get $kept) (i32.const 16))
        (return (i32.const 16))))
    (if (i32.eq (local.get $count) (i32.const 7))
      (then
        (call $read (local.get $tensor) (i32.const 16))
        (return (i32.const 16))))
    (if (i32.eq (local.get $count) (i32.const 8))
      (then
        (loop $again
          (call $share (local.get $tensor) (i32.const 16))
          (call $drop (i32.load (i32.const 20)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $again (local.get $left)))))
    (if (i32.eq (local.get $count) (i32.const 9))
      (then
        (loop $again
          (call $neg (local.get $tensor) (i32.const 16))
          (call $drop (i32.load (i32.const 20)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $again (local.get $left)))))
    (if (i32.eq (local.get $count) (i32.const 10))
      (then
        (loop $again
          (call $share (local.get $tensor) (i32.const 16))
          (br_if $again (i32.eqz (i32.load8_u (i32.const 16)))))
        (return (i32.const 16))))
    (if (i32.eq (local.get $count) (i32.const 11))
      (then (drop (call $deeper (i32.const 0)))))
    (if (i32.eq (local.get $count) (i32.const 12))
      (then (return (call $answer (i32.const 0) (local.get $inputs) (i32.const 0x7fffffff)))))
    (if (i32.eq (local.get $count) (i32.const 13))
      (then (i32.store8 (i32.load (local.get $inputs)) (i32.const 0xff))))
    (if (i32.eq (local.get $count) (i32.const 14))
      (then (loop $again (call $log (i32.const 3) (i32.const 600) (i32.const 13)) (br $again))))
    (if (i32.eq (local.get $count) (i32.const 15))
      (then (loop $again (call $log (i32.const 0) (i32.const 600) (i32.const 0xf000)) (br $again))))
    (if (i32.eq (local.get $count) (i32.const 16))
      (then
        (local.set $left (i32.const 9900))
        (loop $again
          (call $share (local.get $tensor) (i32.const 16))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $again (local.get $left)))))
    (if (i32.eq (local.get $count) (i32.const 17))
      (then
        (loop $again
          (call $neg (local.get $tensor) (i32.const 16))
          (global.set $heap (i32.const 0x10800))
          (br $again))))
    (if (i32.eq (local.get $count) (i32.const 18))
      (then
        (loop $again
          (memory.fill (i32.const 0x10800) (i32.const 1) (i32.const 0xf000))
          (br $again))))
    (call $answer (i32.const 0) (local.get $inputs) (i32.const 1)))
  (export "cabi_post_dtta:plugin/mapper@0.1.0#[method]mapper.condition" (func $start_over)))
