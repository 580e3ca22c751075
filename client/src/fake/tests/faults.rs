//! Lost answers, ended sessions, servers that fail: nothing happens twice, nothing is lost silently.

use std::time::Duration;

use bytes::Bytes;
use weft_core::refusal::Refusal;

use super::files::{name, new_file};
use super::model::run;
use crate::fake::{Fake, Trouble};
use crate::{Cred, Error, Found, Ino, RenameMode};

#[test]
fn lost_answers_make_nothing_happen_twice() {
    run(async {
        for seed in 0..20 {
            let fake = Fake::new(seed);
            let client = fake.client().await;
            let volume = client.volume("root").await.expect("there");
            fake.trouble(Trouble {
                lost_answers: 400,
                lost_requests: 200,
                elections: 100,
                busy: 100,
                ..Trouble::default()
            });
            let cred = Cred::root();
            // Each of these is refused when it is done a second time.
            let tasks = (0..12).map(|n| {
                let (volume, cred) = (volume.clone(), cred.clone());
                async move {
                    let (a, b) = (name(&format!("a{n}")), name(&format!("b{n}")));
                    let dir = volume.mkdir(&cred, Ino::ROOT, a.clone(), 0o755).await?;
                    volume.rename(&cred, Ino::ROOT, a, Ino::ROOT, b.clone(), RenameMode::NoReplace).await?;
                    let (file, ..) = volume.create_file(&cred, dir.ino, name("x"), 0o644, true).await?;
                    volume.link(&cred, file.ino(), dir.ino, name("y")).await?;
                    volume.unlink(&cred, dir.ino, name("x")).await?;
                    assert_eq!(volume.unlink(&cred, dir.ino, name("y")).await?.nlink, 0);
                    if n % 2 == 0 {
                        volume.rmdir(&cred, Ino::ROOT, b).await?;
                    }
                    Ok::<(), Error>(())
                }
            });
            futures::future::try_join_all(tasks).await.expect("each done once");
            let listing = volume.readdir(&cred, Ino::ROOT, None, 100, true).await.expect("listed");
            assert_eq!(listing.entries.len(), 6);
            fake.check();
        }
    });
}

#[test]
fn many_requests_wait_for_the_window() {
    run(async {
        let fake = Fake::new(40);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        fake.trouble(Trouble { lost_answers: 300, ..Trouble::default() });
        let tasks = (0..3000).map(|n| {
            let volume = volume.clone();
            async move { volume.mkdir(&Cred::root(), Ino::ROOT, name(&format!("{n}")), 0o755).await }
        });
        futures::future::try_join_all(tasks).await.expect("all made");
        assert_eq!(fake.stat(volume.id(), Ino::ROOT).size, 3000);
    });
}

#[test]
fn an_ended_session_is_an_error_for_what_it_held_and_for_nothing_else() {
    run(async {
        let fake = Fake::new(41);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let file = new_file(&volume, "held").await;
        file.write_at(0, Bytes::from_static(b"held")).await.expect("written");
        let session = client.shared.session(volume.info().space).await.expect("open");
        fake.end_session(session.client, session.space);
        assert_eq!(file.flush().await.expect_err("the session has ended").errno(), 5);
        assert_eq!(file.write_at(0, Bytes::from_static(b"more")).await.expect_err("ended").errno(), 5);
        // What has nothing to do with it goes on in a new session.
        volume.mkdir(&Cred::root(), Ino::ROOT, name("dir"), 0o755).await.expect("made");
        let again = volume.open(&Cred::root(), file.ino(), true, true).await.expect("opened");
        again.write_at(0, Bytes::from(vec![5; 100_000])).await.expect("written");
        again.close().await.expect("closed");
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 100_000);
        fake.check();
    });
}

#[test]
fn an_operation_that_is_never_answered_is_unknown_after_the_deadline() {
    run(async {
        let fake = Fake::new(42);
        let client = fake.client_with(|options| options.deadline = Duration::from_secs(7)).await;
        let volume = client.volume("root").await.expect("there");
        let file = new_file(&volume, "kept").await;
        file.write_at(0, Bytes::from(vec![1; 100_000])).await.expect("written");
        let small = new_file(&volume, "small").await;
        small.write_at(0, Bytes::from_static(b"small")).await.expect("written");
        fake.trouble(Trouble { lost_answers: 1000, ..Trouble::default() });
        let begun = tokio::time::Instant::now();
        let error = volume.mkdir(&Cred::root(), Ino::ROOT, name("dir"), 0o755).await.expect_err("unknown");
        assert!(matches!(error, Error::Unknown { .. }) && error.errno() == 5, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(12));
        assert_eq!(file.flush().await.expect_err("not stored").errno(), 5);
        assert_eq!(small.flush().await.expect_err("not known to be committed").errno(), 5);
        assert_eq!(small.read_at(0, 9).await.expect("read")[..], *b"small");
        small.write_at(0, Bytes::from_static(b"S")).await.expect("written");
        // Nothing was given up: what was written is stored as soon as that is possible.
        fake.trouble(Trouble::default());
        file.flush().await.expect("flushed");
        assert_eq!(fake.stat(volume.id(), file.ino()).size, 100_000);
        small.flush().await.expect("flushed");
        let again = volume.open(&Cred::root(), small.ino(), true, false).await.expect("opened");
        assert_eq!(again.read_at(0, 9).await.expect("read")[..], *b"Small");
        assert!(matches!(volume.lookup(&Cred::root(), Ino::ROOT, name("dir")).await, Ok(Found::Inode(_))));
        fake.check();
    });
}

#[test]
fn a_failed_background_upload_is_told_to_every_writer_once() {
    run(async {
        let fake = Fake::new(43);
        let client = fake.client_with(|options| options.deadline = Duration::from_secs(2)).await;
        let volume = client.volume("root").await.expect("there");
        let first = new_file(&volume, "failing").await;
        let second = volume.open(&Cred::root(), first.ino(), true, true).await.expect("opened");
        fake.trouble(Trouble { failed_puts: 1000, ..Trouble::default() });
        first.write_at(0, Bytes::from(vec![1; 4 << 20])).await.expect("taken");
        tokio::time::sleep(Duration::from_secs(8)).await;
        fake.trouble(Trouble::default());
        for file in [&first, &second] {
            file.write_at(0, Bytes::from_static(b"x")).await.expect_err("the upload failed");
            file.write_at(0, Bytes::from_static(b"x")).await.expect("told once");
        }
        first.close().await.expect("stored in the end");
        assert_eq!(fake.stat(volume.id(), first.ino()).size, 4 << 20);
    });
}

#[test]
fn a_full_site_is_said_to_be_full_at_once() {
    run(async {
        let fake = Fake::new(44);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let file = new_file(&volume, "full").await;
        fake.full(true);
        file.write_at(0, Bytes::from(vec![1; 100_000])).await.expect("taken");
        let begun = tokio::time::Instant::now();
        let error = file.flush().await.expect_err("no space");
        assert!(matches!(error.refusal(), Some(Refusal::NoSpace { .. })), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        fake.full(false);
        file.flush().await.expect("there is space again");
    });
}

#[test]
fn a_slow_replica_is_overtaken_and_a_wrong_one_passed_over() {
    run(async {
        let fake = Fake::new(45);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let file = new_file(&volume, "read").await;
        file.write_at(0, Bytes::from(vec![9; 100_000])).await.expect("written");
        file.close().await.expect("closed");
        fake.bad_node(1, true);
        for _ in 0..8 {
            let file = volume.open(&Cred::root(), file.ino(), true, false).await.expect("opened");
            client.shared.cache.clear();
            let begun = tokio::time::Instant::now();
            assert_eq!(file.read_at(50_000, 5).await.expect("read")[..], [9; 5]);
            assert!(begun.elapsed() < Duration::from_millis(700));
        }
    });
}

#[test]
fn a_server_hears_of_the_wrong_bytes_it_gave() {
    run(async {
        let fake = Fake::new(46);
        let client = fake.client().await;
        let volume = client.volume("root").await.expect("there");
        let file = new_file(&volume, "read").await;
        file.write_at(0, Bytes::from(vec![9; 100_000])).await.expect("written");
        file.close().await.expect("closed");
        assert!(fake.suspected().is_empty());
        fake.trouble(Trouble { rot: 400, ..Trouble::default() });
        for _ in 0..20 {
            let file = volume.open(&Cred::root(), file.ino(), true, false).await.expect("opened");
            client.shared.cache.clear();
            assert_eq!(file.read_at(50_000, 5).await.expect("read")[..], [9; 5]);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!fake.suspected().is_empty());
    });
}
