//! The host's side of `wit/slot.wit`. Parameters of exports borrow, so that a message's body is
//! copied once, into the guest.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "handler",
    imports: { default: trappable },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
    include_component_type: true,
});
