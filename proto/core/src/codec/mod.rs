//! Bytes of records, commands and what is sent between replicas.
