//! Orders about nodes, when answers get lost.

use super::model::run;
use crate::fake::{Fake, Trouble};
use crate::{Error, NodeId};

#[test]
fn an_order_is_done_though_its_answer_is_lost() {
    run(async {
        let fake = Fake::new(11);
        let client = fake.client().await;
        fake.trouble(Trouble { lost_answers: 700, ..Trouble::default() });
        for on in [true, false] {
            let map = client.drain_node(NodeId(2), on).await.expect("done");
            assert!(map.nodes.iter().any(|node| node.id == NodeId(2) && node.draining == on));
        }
        let map = client.remove_node(NodeId(2), false).await.expect("done");
        assert!(!map.nodes.iter().any(|node| node.id == NodeId(2)));
        let again = client.remove_node(NodeId(2), false).await;
        assert!(matches!(again, Err(Error::Refused(_))), "{again:?}");
    });
}
