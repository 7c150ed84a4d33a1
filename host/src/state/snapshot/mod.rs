//! Snapshots of slots in an object store.
