//! Segments of chunks: headers, records, tables and trailers, as they lie on a disk that may have garbled them.

use weft_node::chunk::fuzzing;

use super::frugal::frugal;

/// Where in their segment the bytes are.
pub const OFFSET: u64 = 8192;

/// The bytes as they are, and as if each sum were right.
pub fn body(data: &[u8]) {
    check(data);
    for seal in [
        fuzzing::seal_header as fn(&mut [u8]),
        |bytes| fuzzing::seal_record(bytes, OFFSET),
        |bytes| fuzzing::seal_trailer(bytes, OFFSET),
    ] {
        let mut sealed = data.to_vec();
        seal(&mut sealed);
        check(&sealed);
    }
    if let Some((table, entries)) = frugal(data.len(), || fuzzing::table_again(data, OFFSET)) {
        assert_eq!(entries, data.len() / 72);
        let whole = fuzzing::table_again(&table[..entries * 72], OFFSET).expect("what was just encoded decodes");
        assert_eq!(whole, (table, entries));
    }
}

fn check(data: &[u8]) {
    if let Some(header) = frugal(data.len(), || fuzzing::header_again(data)) {
        assert_eq!(fuzzing::header_again(&header), Some(header));
    }
    if let Some((record, len)) = frugal(data.len(), || fuzzing::record_again(data, OFFSET)) {
        assert!(len >= 4096 && len.is_multiple_of(4096) && len <= 8 << 20, "a record of {len} bytes");
        assert_eq!(fuzzing::record_again(&record, OFFSET), Some((record, len)));
        assert!(fuzzing::record_again(data, OFFSET + 4096).is_none(), "a record decodes in another place");
    }
    if let Some((trailer, table)) = frugal(data.len(), || fuzzing::trailer_again(data, OFFSET)) {
        assert_eq!(fuzzing::trailer_again(&trailer, OFFSET), Some((trailer, table)));
    }
}
