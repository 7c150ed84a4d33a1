//! Who is alive: SWIM over the node's peer port.
