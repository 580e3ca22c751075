//! A sorted list that comes in pages, compared with sorted keys.

use std::collections::VecDeque;

use weft_core::ids::{ChunkId, SpaceId};
use weft_core::refusal::Refusal;

/// A chunk's place in the order of both sides.
pub(super) type Key = (SpaceId, ChunkId);

/// What somebody holds, in pages.
#[async_trait::async_trait]
pub(super) trait Pages: Send {
    /// What comes after a key, with lengths, in order; and whether that was the end.
    async fn after(&mut self, after: Option<Key>) -> Result<(Vec<(Key, u32)>, bool), Refusal>;
}

/// Goes through pages once, forward.
pub(super) struct Cursor<P> {
    pages: P,
    ahead: VecDeque<(Key, u32)>,
    last: Option<Key>,
    end: bool,
}

impl<P: Pages> Cursor<P> {
    /// Begins behind a key.
    pub(super) fn new(pages: P, after: Option<Key>) -> Cursor<P> {
        Cursor { pages, ahead: VecDeque::new(), last: after, end: false }
    }

    /// The length under a key, if it is held. What is held below it and was not asked for goes to `others`.
    ///
    /// # Errors
    /// A page could not be had; the cursor may be asked again.
    pub(super) async fn find(&mut self, key: Key, others: &mut Vec<Key>) -> Result<Option<u32>, Refusal> {
        while let Some((held, len)) = self.peek().await? {
            if held > key {
                return Ok(None);
            }
            self.ahead.pop_front();
            if held == key {
                return Ok(Some(len));
            }
            others.push(held);
        }
        Ok(None)
    }

    /// What is held from here on, the next page of it; nothing at the end.
    ///
    /// # Errors
    /// A page could not be had; the cursor may be asked again.
    pub(super) async fn rest(&mut self) -> Result<Vec<Key>, Refusal> {
        self.peek().await?;
        Ok(self.ahead.drain(..).map(|(key, _)| key).collect())
    }

    async fn peek(&mut self) -> Result<Option<(Key, u32)>, Refusal> {
        if self.ahead.is_empty() && !self.end {
            let (page, end) = self.pages.after(self.last).await?;
            for (key, len) in page {
                if self.last.is_some_and(|last| key <= last) {
                    return Err(Refusal::Invalid { why: "the server's list is out of order".into() });
                }
                self.last = Some(key);
                self.ahead.push_back((key, len));
            }
            if self.ahead.is_empty() && !end {
                return Err(Refusal::Invalid { why: "the server's list has an empty page".into() });
            }
            self.end = end;
        }
        Ok(self.ahead.front().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_core::ids::ClientId;

    use super::*;

    struct Held(BTreeMap<Key, u32>, usize);

    #[async_trait::async_trait]
    impl Pages for Held {
        async fn after(&mut self, after: Option<Key>) -> Result<(Vec<(Key, u32)>, bool), Refusal> {
            let rest = self.0.iter().filter(|(key, _)| after.is_none_or(|after| **key > after));
            let page: Vec<_> = rest.take(self.1).map(|(key, len)| (*key, *len)).collect();
            let end = page.len() < self.1;
            Ok((page, end))
        }
    }

    fn key(n: u8) -> Key {
        (SpaceId(u64::from(n / 16)), ChunkId { client: ClientId(u64::from(n / 4 % 4)), counter: u64::from(n % 4) })
    }

    proptest! {
        #[test]
        fn every_key_is_told_once_as_wanted_missing_or_other(
            named in prop::collection::btree_set(0u8..64, 0..40),
            held in prop::collection::btree_map(0u8..64, 1u32..9, 0..40),
            page in 1usize..9,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let by_key: BTreeMap<Key, u32> = held.iter().map(|(n, len)| (key(*n), *len)).collect();
            let mut cursor = Cursor::new(Held(by_key.clone(), page), None);
            let mut others = Vec::new();
            runtime.block_on(async {
                for n in &named {
                    let found = cursor.find(key(*n), &mut others).await.unwrap();
                    assert_eq!(found, by_key.get(&key(*n)).copied());
                }
                loop {
                    let rest = cursor.rest().await.unwrap();
                    if rest.is_empty() {
                        break;
                    }
                    others.extend(rest);
                }
            });
            let expected: Vec<Key> = held.keys().filter(|n| !named.contains(n)).map(|n| key(*n)).collect();
            prop_assert_eq!(others, expected);
        }
    }

    #[tokio::test]
    async fn a_list_out_of_order_is_refused() {
        struct Same;
        #[async_trait::async_trait]
        impl Pages for Same {
            async fn after(&mut self, _: Option<Key>) -> Result<(Vec<(Key, u32)>, bool), Refusal> {
                Ok((vec![(key(1), 1)], false))
            }
        }
        let mut cursor = Cursor::new(Same, None);
        let mut others = Vec::new();
        assert!(cursor.find(key(5), &mut others).await.is_err());
    }
}
