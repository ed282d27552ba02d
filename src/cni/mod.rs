//! The CNI protocol.
