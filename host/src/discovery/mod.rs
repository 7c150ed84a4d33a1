//! How a node finds its peers: fixed seeds, or DNS.
