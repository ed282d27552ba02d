//! What Braid itself does inside a network namespace.
