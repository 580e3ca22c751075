//! Who is believed at both ends of a connection, over links in memory and with clocks that say what the test wants.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use weft_core::access::principal::Principal;
use weft_core::ids::{Incarnation, NodeId, PrincipalId, ReplicaId, SiteId};
use weft_core::site::trust::Authority;
use weft_proto::link::{Accept, Dial, Link};
use weft_proto::trust::{
    Distrust, Doorman, Fingerprint, Held, Limits, Name, NodeName, SecureDial, Trust, UserName, Who, Whom, new_key,
    secured,
};

use weft_node::trust::authority;

const NOW: i64 = 1_800_000_000;
const SITE: SiteId = SiteId(5);

/// Links in memory: what is dialled is accepted.
struct Wire(mpsc::Sender<Link>);

#[async_trait::async_trait]
impl Dial for Wire {
    async fn dial(&self, _: &str) -> io::Result<Link> {
        let (near, far) = tokio::io::duplex(64 << 10);
        self.0.send(Link::new(far)).await.map_err(|_| io::Error::other("nobody listens"))?;
        Ok(Link::new(near))
    }
}

struct Door(mpsc::Receiver<Link>);

#[async_trait::async_trait]
impl Accept for Door {
    async fn accept(&mut self) -> io::Result<Link> {
        match self.0.recv().await {
            Some(link) => Ok(link),
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> io::Result<String> {
        Ok("memory:1".into())
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Doorman for Heard {
    fn refused(&self, _: Option<SocketAddr>, why: &Distrust) {
        self.0.lock().push(why.to_string());
    }
    fn crowded(&self, _: Option<SocketAddr>) {
        self.0.lock().push("crowded".into());
    }
}

fn node(number: u32) -> Name {
    let replica = ReplicaId { node: NodeId(number), incarnation: Incarnation(7) };
    Name::Node(NodeName { site: SITE, replica })
}

fn user(number: u64) -> Name {
    let principal = Principal { id: PrincipalId(number), name: "anna".into(), ..Principal::default() };
    Name::User(UserName { site: SITE, principal })
}

/// A certificate of an authority, good from `from` for a day, and what else its holder believes.
fn held(by: &Authority, name: &Name, from: i64, believes: &[&Authority]) -> Held {
    let key = new_key().unwrap();
    let certificate = authority::sign(by, name, &key.public, from, from + 86_400).unwrap();
    let authorities = believes.iter().map(|authority| authority.certificate.to_vec()).collect();
    let crosses = believes.iter().map(|authority| authority.cross.to_vec()).filter(|der| !der.is_empty()).collect();
    Held { certificate, key: key.private, authorities, crosses }
}

fn clock(at: i64) -> Arc<dyn Fn() -> u64 + Send + Sync> {
    Arc::new(move || at.unsigned_abs())
}

fn trust(held: &Held, at: i64) -> Trust {
    Trust::new(held, clock(at)).unwrap()
}

/// What both sides say of each other when `client` dials `server`: why the client did not connect, or whom the server
/// let in; and what the doorman heard.
async fn meet(client: &Trust, server: &Trust, whom: Whom) -> (Result<Who, String>, Vec<String>) {
    let (send, receive) = mpsc::channel(4);
    let heard = Arc::new(Heard::default());
    let links = secured(Box::new(Door(receive)), server.clone(), Limits::default(), heard.clone());
    tokio::pin!(links);
    let dial = SecureDial::new(Arc::new(Wire(send)), client.clone());
    let (dialled, accepted) = tokio::join!(dial.dial_to("memory:1", whom), async {
        tokio::time::timeout(Duration::from_secs(5), links.next()).await.ok().flatten()
    });
    let said = match dialled {
        Err(error) => Err(error.to_string()),
        Ok(mut near) => {
            let mut far = accepted.expect("a link").expect("no error");
            near.write_all(b"hello").await.unwrap();
            near.flush().await.unwrap();
            let mut bytes = [0; 5];
            far.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"hello");
            Ok(far.peer().who.clone())
        }
    };
    let heard = heard.0.lock().clone();
    (said, heard)
}

fn nobody(said: Result<Who, String>) -> Distrust {
    match said {
        Ok(Who::Nobody(why)) => (*why).clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_are_believed_are_known_by_name() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let server = trust(&held(&ours, &node(1), NOW, &[&ours]), NOW);
    for name in [node(2), user(3)] {
        let client = trust(&held(&ours, &name, NOW, &[&ours]), NOW);
        let (said, heard) = meet(&client, &server, Whom::Node(NodeId(1))).await;
        assert!(matches!(said, Ok(Who::Known(known)) if *known == name));
        assert!(heard.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_believed_is_nobody_and_told_why() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let theirs = authority::make(SITE, NOW, None).unwrap();
    let server = trust(&held(&ours, &node(1), NOW, &[&ours]), NOW);
    let meets = async |held: &Held, at: i64| {
        let (said, heard) = meet(&trust(held, at), &server, Whom::AnyNode).await;
        let why = nobody(said);
        assert_eq!(heard, [why.to_string()], "the listening side hears it too");
        why
    };
    // Each believes the server, so that only the server's judgement is seen.
    let mut alien = held(&theirs, &user(3), NOW, &[&theirs]);
    alien.authorities.push(ours.certificate.to_vec());
    assert_eq!(meets(&alien, NOW).await, Distrust::WrongAuthority);

    // The client's clock is wrong: to itself its certificate is good.
    let old = held(&ours, &user(3), NOW - 90_000, &[&ours]);
    assert!(matches!(Trust::new(&old, clock(NOW)).unwrap_err(), Distrust::Expired { .. }), "it knows by itself");
    let early = held(&ours, &user(3), NOW + 90_000, &[&ours]);
    assert!(matches!(Trust::new(&early, clock(NOW)).unwrap_err(), Distrust::NotYet { .. }));

    let elsewhere = Name::User(UserName { site: SiteId(6), ..user_name(3) });
    let six = authority::make(SiteId(6), NOW, None).unwrap();
    let refused = Trust::new(&held(&six, &elsewhere, NOW, &[&six, &ours]), clock(NOW)).unwrap();
    // It would believe only nodes of its own site.
    let (said, _) = meet(&refused, &server, Whom::AnyNode).await;
    assert!(said.unwrap_err().contains("site 5, this is site 6"));

    server.revoke(BTreeSet::from([PrincipalId(3)]));
    assert_eq!(meets(&held(&ours, &user(3), NOW, &[&ours]), NOW).await, Distrust::Revoked { name: "anna".into() });
    let (said, _) = meet(&trust(&held(&ours, &user(4), NOW, &[&ours]), NOW), &server, Whom::AnyNode).await;
    assert!(matches!(said, Ok(Who::Known(_))), "another user is not");
}

fn user_name(number: u64) -> UserName {
    match user(number) {
        Name::User(user) => user,
        Name::Node(_) => unreachable!("it is a user"),
    }
}

/// The server's clock runs ahead, or behind.
#[tokio::test(start_paused = true)]
async fn a_certificate_is_good_by_the_clock_of_who_looks_at_it() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let time = Arc::new(AtomicU64::new(NOW.unsigned_abs()));
    let shared = time.clone();
    let far = authority::sign(&ours, &node(1), &[1; 32], NOW, NOW + 1);
    assert!(far.is_ok());
    let key = new_key().unwrap();
    let certificate = authority::sign(&ours, &node(1), &key.public, NOW - 900_000, NOW + 900_000).unwrap();
    let long =
        Held { certificate, key: key.private, authorities: vec![ours.certificate.to_vec()], crosses: Vec::new() };
    let server = Trust::new(&long, Arc::new(move || shared.load(Ordering::Relaxed))).unwrap();
    let client = trust(&held(&ours, &user(3), NOW, &[&ours]), NOW);
    time.store((NOW + 86_500).unsigned_abs(), Ordering::Relaxed);
    let (said, _) = meet(&client, &server, Whom::AnyNode).await;
    assert_eq!(nobody(said), Distrust::Expired { whom: "user anna".into(), ago_s: 100 });
    time.store((NOW - 400).unsigned_abs(), Ordering::Relaxed);
    let (said, _) = meet(&client, &server, Whom::AnyNode).await;
    assert_eq!(nobody(said), Distrust::NotYet { whom: "user anna".into(), in_s: 100 });
}

#[tokio::test(start_paused = true)]
async fn who_dials_believes_only_the_node_it_means() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let theirs = authority::make(SITE, NOW, None).unwrap();
    let client = trust(&held(&ours, &node(2), NOW, &[&ours]), NOW);
    let (said, _) = meet(&client, &trust(&held(&ours, &node(3), NOW, &[&ours]), NOW), Whom::Node(NodeId(1))).await;
    assert!(said.unwrap_err().contains("node 3 answers where node 1 should"));
    let (said, heard) = meet(&client, &trust(&held(&theirs, &node(1), NOW, &[&theirs]), NOW), Whom::AnyNode).await;
    assert!(said.unwrap_err().contains("another authority"));
    assert_eq!(heard.len(), 1, "the listening side hears of it: {heard:?}");
    // A user that listens with what it has has no way to: its credential makes no server.
    let user = trust(&held(&ours, &user(3), NOW, &[&ours]), NOW);
    let (send, receive) = mpsc::channel(1);
    let heard = Arc::new(Heard::default());
    let links = secured(Box::new(Door(receive)), user, Limits::default(), heard);
    tokio::pin!(links);
    let dial = SecureDial::new(Arc::new(Wire(send)), client);
    let (dialled, _) = tokio::join!(dial.dial("memory:1"), tokio::time::timeout(Duration::from_secs(1), links.next()));
    assert!(dialled.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_joins_believes_the_authority_of_its_token_and_shows_nothing() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let server = trust(&held(&ours, &node(1), NOW, &[&ours]), NOW);
    let joiner = Trust::joining(Fingerprint::of(&ours.certificate), clock(NOW)).unwrap();
    let (said, heard) = meet(&joiner, &server, Whom::AnyNode).await;
    assert_eq!((nobody(said), heard.len()), (Distrust::NoCertificate, 0));
    let misled = Trust::joining(Fingerprint([1; 32]), clock(NOW)).unwrap();
    let (said, _) = meet(&misled, &server, Whom::AnyNode).await;
    assert!(said.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_new_authority_is_believed_by_those_who_know_only_the_one_before() {
    let first = authority::make(SITE, NOW, None).unwrap();
    let second = authority::make(SITE, NOW, Some(&first)).unwrap();
    // A node that renewed, a user and a node that slept through it.
    let server = trust(&held(&second, &node(1), NOW, &[&first, &second]), NOW);
    for name in [user(3), node(2)] {
        let old = trust(&held(&first, &name, NOW, &[&first]), NOW);
        let (said, _) = meet(&old, &server, Whom::Node(NodeId(1))).await;
        assert!(matches!(said, Ok(Who::Known(known)) if *known == name));
    }
    let sleeper = trust(&held(&first, &node(2), NOW, &[&first]), NOW);
    let renewed = trust(&held(&second, &node(3), NOW, &[&first, &second]), NOW);
    let (said, _) = meet(&renewed, &sleeper, Whom::AnyNode).await;
    assert!(matches!(said, Ok(Who::Known(_))), "{said:?}");
    // Once the first is dropped, what it signed is refused.
    server.replace(&held(&second, &node(1), NOW, &[&second])).unwrap();
    let (said, _) = meet(&sleeper, &server, Whom::AnyNode).await;
    assert_eq!(nobody(said), Distrust::WrongAuthority);
}

/// Somebody sends nothing, somebody sends rubbish, and others are served meanwhile.
#[tokio::test(start_paused = true)]
async fn slow_and_senseless_peers_hold_up_nobody() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let server = trust(&held(&ours, &node(1), NOW, &[&ours]), NOW);
    let (send, receive) = mpsc::channel(4);
    let heard = Arc::new(Heard::default());
    let limits = Limits { handshakes: 8, ..Limits::default() };
    let links = secured(Box::new(Door(receive)), server, limits, heard.clone());
    tokio::pin!(links);
    let wire = Arc::new(Wire(send));
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut link = wire.dial("memory:1").await.unwrap();
        if n % 2 == 0 {
            link.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        slow.push(link);
        tokio::task::yield_now().await;
    }
    let dial = SecureDial::new(wire, trust(&held(&ours, &user(3), NOW, &[&ours]), NOW));
    let (dialled, accepted) = tokio::join!(dial.dial("memory:1"), links.next());
    assert!(matches!(accepted.unwrap().unwrap().peer().who, Who::Known(_)) && dialled.is_ok());
    tokio::time::sleep(limits.handshake * 2).await;
    let mut byte = [0];
    for link in &mut slow {
        // All were closed: nothing of what they hold outlives the time for a handshake.
        assert!(matches!(link.read(&mut byte).await, Ok(0 | 1) | Err(_)));
    }
    assert!(heard.0.lock().iter().any(|why| why.contains("does not speak TLS")), "{:?}", heard.0.lock());
}

/// What is not believed is few and short.
#[tokio::test(start_paused = true)]
async fn strangers_are_few_and_do_not_stay() {
    let ours = authority::make(SITE, NOW, None).unwrap();
    let server = trust(&held(&ours, &node(1), NOW, &[&ours]), NOW);
    let joiner = Trust::joining(Fingerprint::of(&ours.certificate), clock(NOW)).unwrap();
    let (send, receive) = mpsc::channel(4);
    let heard = Arc::new(Heard::default());
    let limits = Limits { strangers: 2, ..Limits::default() };
    let links = secured(Box::new(Door(receive)), server, limits, heard.clone());
    tokio::pin!(links);
    let dial = SecureDial::new(Arc::new(Wire(send)), joiner);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (dialled, accepted) = tokio::join!(dial.dial("memory:1"), links.next());
        near.push(dialled.unwrap());
        far.push(accepted.unwrap().unwrap());
    }
    let third = dial.dial("memory:1").await;
    let came = tokio::time::timeout(Duration::from_secs(1), links.next()).await;
    assert!(came.is_err(), "the third is closed");
    drop(third);
    assert_eq!(*heard.0.lock(), ["crowded"]);
    let mut byte = [0];
    let began = tokio::time::Instant::now();
    assert_eq!(far[0].read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() <= limits.stranger);
}
