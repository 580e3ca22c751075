use super::*;

#[test]
fn the_printed_settings_read_back_as_the_same() {
    let mut settings = Settings { data: "/srv/weft \"x\"".into(), meta: false, ..Settings::default() };
    settings.peers = vec!["a:1".into(), "[::1]:2".into()];
    settings.record_store = RecordStoreKind::Sled;
    settings.raft.heartbeat_ms = 77;
    settings.chunks.max_puts = 3;
    let text = settings.documented_toml();
    assert_eq!(Settings::parse(&text, "printed").unwrap(), settings, "{text}");
    assert_eq!(Settings::parse("", "empty").unwrap(), Settings::default());
}

#[test]
fn every_setting_is_printed_with_words_about_it() {
    let text = Settings::default().documented_toml();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[at - 1].starts_with("# "), "{line} has no words before it:\n{text}");
        }
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_what_was_meant() {
    let error = |text: &str| Settings::parse(text, "weft.toml").unwrap_err().to_string();
    assert_eq!(
        error("meta = true\nlissten = \"a:1\"\n"),
        "unknown key lissten in weft.toml line 2: did you mean listen?"
    );
    assert_eq!(
        error("[raft]\n\nhartbeat_ms = 3\n"),
        "unknown key raft.hartbeat_ms in weft.toml line 3: did you mean raft.heartbeat_ms?"
    );
    assert_eq!(
        error("snapshot_every = 3"),
        "unknown key snapshot_every in weft.toml line 1: did you mean raft.snapshot_every?"
    );
    assert_eq!(error("[quux]\na = 1"), "unknown key quux in weft.toml line 1");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let error = |text: &str| Settings::parse(text, "weft.toml").unwrap_err().to_string();
    assert!(error("meta = 3").starts_with("weft.toml line 1: "), "{}", error("meta = 3"));
    assert!(error("a =").starts_with("weft.toml line 1: "));
    assert_eq!(error("listen = \"here\""), "setting listen in weft.toml: \"here\" is not host:port");
    assert_eq!(
        error("meta = false\nchunk = false"),
        "setting meta in weft.toml: a node needs a role: meta, chunk or both"
    );
    assert_eq!(
        error("listen = \"0.0.0.0:7400\""),
        "setting advertise in weft.toml: needed, since others can't reach 0.0.0.0:7400"
    );
    assert_eq!(error("lease_ms = 600"), "setting lease_ms in weft.toml: 600 is less than three heartbeats of 500 ms");
    assert!(error("[raft]\nelection_max_ms = 600").contains("not above election_min_ms"));
    assert!(error("record_store = \"rocks\"").contains("rocks"));
}

#[test]
fn what_other_machines_would_reach_is_told() {
    let at = |listen: &str, advertise: &str| {
        let settings = Settings { listen: listen.into(), advertise: advertise.into(), ..Settings::default() };
        settings.beyond_loopback().map(str::to_string)
    };
    for local in ["127.0.0.1:7400", "localhost:7400", "[::1]:7400", "127.9.9.9:0"] {
        assert_eq!(at(local, ""), None);
        assert_eq!(at("10.0.0.1:7400", local).as_deref(), Some("10.0.0.1:7400"));
        assert_eq!(at(local, "node1.example:7400").as_deref(), Some("node1.example:7400"));
    }
    assert_eq!(at("0.0.0.0:7400", "").as_deref(), Some("0.0.0.0:7400"));
}
