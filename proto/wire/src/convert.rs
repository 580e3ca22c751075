//! Wire messages to core types and back.
