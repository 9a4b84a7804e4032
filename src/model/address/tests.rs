use proptest::prelude::*;

use super::*;

fn networks(text: &str) -> Networks {
    text.parse().unwrap()
}

fn refused_as(ip: IpAddr, allowed: &str) -> &'static str {
    judge(ip, &networks(allowed)).err().map_or("", |forbidden| forbidden.network)
}

#[test]
fn every_row_says_the_network_it_holds_and_refuses_it_from_end_to_end() {
    let rows = FORBIDDEN_V4.iter().map(|(net, forbidden)| (IpNet::from(*net), forbidden));
    let rows = rows.chain(FORBIDDEN_V6.iter().map(|(net, forbidden)| (IpNet::from(*net), forbidden)));
    for (network, forbidden) in rows {
        assert_eq!(network.to_string(), forbidden.network);
        assert_eq!(network, network.trunc(), "{network} has bits behind its prefix");
        assert!(!forbidden.name.is_empty());
        for ip in [network.network(), network.broadcast()] {
            assert!(judge(ip, &Networks::default()).is_err(), "{ip} of {network} was let through");
        }
    }
}

#[test]
fn public_addresses_pass_and_all_others_are_refused_by_name() {
    let check = |ip: &str, expected: &str| {
        assert_eq!(refused_as(ip.parse().unwrap(), ""), expected, "{ip}");
    };
    check("8.8.8.8", "");
    check("9.255.255.255", "");
    check("11.0.0.0", "");
    check("100.63.255.255", "");
    check("100.128.0.0", "");
    check("126.255.255.255", "");
    check("128.0.0.0", "");
    check("168.63.129.17", "");
    check("169.253.255.255", "");
    check("172.15.255.255", "");
    check("172.32.0.0", "");
    check("192.0.1.0", "");
    check("192.167.255.255", "");
    check("198.17.255.255", "");
    check("198.20.0.0", "");
    check("223.255.255.255", "");
    check("0.0.0.0", "0.0.0.0/8");
    check("10.1.2.3", "10.0.0.0/8");
    check("100.64.0.1", "100.64.0.0/10");
    check("100.100.100.200", "100.100.100.200/32");
    check("127.0.0.1", "127.0.0.0/8");
    check("127.255.255.254", "127.0.0.0/8");
    check("168.63.129.16", "168.63.129.16/32");
    check("169.254.1.1", "169.254.0.0/16");
    check("169.254.169.254", "169.254.169.254/32");
    check("172.16.0.1", "172.16.0.0/12");
    check("172.31.255.255", "172.16.0.0/12");
    check("192.0.0.8", "192.0.0.0/24");
    check("192.0.2.1", "192.0.2.0/24");
    check("192.88.99.1", "192.88.99.0/24");
    check("192.168.1.1", "192.168.0.0/16");
    check("198.18.0.1", "198.18.0.0/15");
    check("198.19.255.255", "198.18.0.0/15");
    check("198.51.100.1", "198.51.100.0/24");
    check("203.0.113.9", "203.0.113.0/24");
    check("224.0.0.1", "224.0.0.0/4");
    check("239.255.255.255", "224.0.0.0/4");
    check("240.0.0.1", "240.0.0.0/4");
    check("255.255.255.255", "240.0.0.0/4");

    check("2606:4700:4700::1111", "");
    check("2001:200::1", "");
    check("2001:4860:4860::8888", "");
    check("3ffe::1", "");
    check("fbff::1", "");
    check("::", "::/128");
    check("::1", "::1/128");
    check("100::1", "100::/64");
    check("2001:1ff::1", "2001::/23");
    check("2001:10::1", "2001::/23");
    check("2001:db8::1", "2001:db8::/32");
    check("3fff:fff::1", "3fff::/20");
    check("5f00::1", "5f00::/16");
    check("fc00::1", "fc00::/7");
    check("fd12:3456::1", "fc00::/7");
    check("fd00:ec2::254", "fd00:ec2::254/128");
    check("fe80::1", "fe80::/10");
    check("febf::1", "fe80::/10");
    check("fec0::1", "fec0::/10");
    check("ff02::1", "ff00::/8");
}

#[test]
fn an_address_inside_another_is_judged() {
    let check = |ip: &str, expected: &str| {
        assert_eq!(refused_as(ip.parse().unwrap(), ""), expected, "{ip}");
    };
    check("::ffff:8.8.8.8", "");
    check("::ffff:10.0.0.1", "10.0.0.0/8");
    check("::ffff:169.254.169.254", "169.254.169.254/32");
    check("::8.8.8.8", "");
    check("::127.0.0.1", "127.0.0.0/8");
    check("::2", "0.0.0.0/8");
    check("64:ff9b::8.8.8.8", "");
    check("64:ff9b::192.168.0.1", "192.168.0.0/16");
    check("64:ff9b:1::10.0.0.1", "64:ff9b:1::/48");
    check("64:ff9b:1:808:8:800::", "64:ff9b:1::/48");
    check("2002:808:808::1", "");
    check("2002:7f00:1::1", "127.0.0.0/8");
    check("2002:a9fe:a9fe::", "169.254.169.254/32");
    // Teredo holds its address inverted: f5ff:fffe is 10.0.0.1 and f7f7:f7f7 is 8.8.8.8.
    check("2001:0:4136:e378:8000:63bf:f5ff:fffe", "10.0.0.0/8");
    check("2001:0:4136:e378:8000:63bf:f7f7:f7f7", "2001::/32");
}

proptest! {
    #[test]
    fn no_wrapping_makes_a_forbidden_address_acceptable(bits in any::<u32>()) {
        let ip = Ipv4Addr::from_bits(bits);
        let [high, low] = [bits >> 16, bits & 0xffff];
        let nat64 = format!("64:ff9b::{high:x}:{low:x}");
        let sixtofour = format!("2002:{high:x}:{low:x}::1");
        let plain = refused_as(ip.into(), "");
        for wrapped in [ip.to_ipv6_mapped(), nat64.parse().unwrap(), sixtofour.parse().unwrap()] {
            prop_assert_eq!(refused_as(wrapped.into(), ""), plain, "{} for {}", wrapped, ip);
        }
    }
}

#[test]
fn allowed_networks_open_what_lies_in_them_and_no_more() {
    let check = |ip: &str, allowed: &str, expected: &str| {
        assert_eq!(refused_as(ip.parse().unwrap(), allowed), expected, "{ip} with {allowed}");
    };
    check("127.0.0.1", "127.0.0.0/8", "");
    check("127.0.0.1", "127.0.0.2", "127.0.0.0/8");
    check("10.0.0.1", "127.0.0.0/8", "10.0.0.0/8");
    check("::ffff:127.0.0.1", "127.0.0.0/8", "");
    check("64:ff9b::10.1.1.1", "10.0.0.0/8", "");
    check("2002:a00:1::", "10.0.0.0/8", "");
    check("::1", "127.0.0.0/8", "::1/128");
    check("::1", "127.0.0.0/8,::1", "");
    check("fd12::1", "fd12::/16", "");
    check("fd00:ec2::254", "fd12::/16", "fd00:ec2::254/128");
    check("64:ff9b:1::10.0.0.1", "10.0.0.0/8", "64:ff9b:1::/48");
    check("64:ff9b:1::10.0.0.1", "64:ff9b:1::/48", "");
}

#[test]
fn networks_are_read_from_one_list_and_written_back() {
    let check = |text: &str, expected: &str| {
        let read = text.parse::<Networks>();
        assert_eq!(read.map_or_else(|bad| bad.to_string(), |read| read.to_string()), expected, "{text:?}");
    };
    check("", "");
    check(" , ", "");
    check("10.0.0.0/8", "10.0.0.0/8");
    check("10.0.0.0/8, fd00::/8 127.0.0.1\n::1", "10.0.0.0/8,fd00::/8,127.0.0.1/32,::1/128");
    check(
        "10.0.0.1/8",
        "`10.0.0.1/8` has bits set after its prefix; write `10.0.0.0/8` for the network, or the bare address",
    );
    let unreadable = |text: &str| {
        format!(
            "`{text}` is not a network; write it as 10.0.0.0/8 or fd00::/8, and separate several with commas"
        )
    };
    for text in ["10.0.0.0/33", "10.0.0/8", "cluster.local", "10.0.0.0/-1", "::/129"] {
        check(text, &unreadable(text));
    }
}

#[test]
fn one_address_is_seen_in_all_its_spellings() {
    let check = |text: &str, expected: &str| {
        let refused = check_url(text, &Networks::default(), false);
        match refused {
            Err(BadUrl::Forbidden { forbidden, .. }) => assert_eq!(forbidden.network, expected, "{text:?}"),
            other => panic!("{text:?} gave {other:?}"),
        }
        assert!(check_url(text, &networks("0.0.0.0/0,::/0"), false).is_ok(), "{text:?} is no URL at all");
    };
    for text in [
        "http://127.0.0.1/hook",
        "https://127.0.0.1:8443/",
        "http://127.1",
        "http://127.0.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0x7F.1",
        "http://0177.0.0.1",
        "http://017700000001",
        "http://0x7f.0.0x0.01",
        "http://127.0.0.1.",
        "http://127。0。0。1",
        "http://\u{ff11}\u{ff12}\u{ff17}.\u{ff10}.\u{ff10}.\u{ff11}",
        "http://\u{2460}\u{2461}\u{2466}.\u{24ea}.\u{24ea}.\u{2460}",
        "http://%31%32%37.0.0.1",
        "http:127.0.0.1",
        "http:\\\\127.0.0.1\\hook",
        "  http://127.0.0.1",
        "ht\ntp://127.\t0.0.1",
        "HTTP://127.0.0.1",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:7f00:1]",
        "http://[0:0:0:0:0:FFFF:7F00:0001]",
        "http://[::127.0.0.1]",
        "http://[64:ff9b::127.0.0.1]",
        "http://[2002:7f00:1::]",
    ] {
        check(text, "127.0.0.0/8");
    }
    check("http://0/", "0.0.0.0/8");
    check("http://[::]/", "::/128");
    check("http://[::1]:9000/", "::1/128");
    check("http://[::ffff:10.0.0.1]/", "10.0.0.0/8");
    check("http://169.254.169.254/latest/meta-data/", "169.254.169.254/32");
    check("http://2852039166/", "169.254.169.254/32");
    check("http://[fd00:ec2::254]/", "fd00:ec2::254/128");
}

#[test]
fn a_url_is_taken_or_refused_with_the_way_out() {
    let check = |text: &str, expected: &str| {
        let found = check_url(text, &Networks::default(), false);
        assert_eq!(found.map_or_else(|bad| bad.to_string(), String::from), expected, "{text:?}");
    };
    check("https://example.com/hooks?a=b", "https://example.com/hooks?a=b");
    check("http://example.com:8080", "http://example.com:8080/");
    check("https://8.8.8.8/", "https://8.8.8.8/");
    check("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/");
    check("https://ex\u{e4}mple.com", "https://xn--exmple-cua.com/");
    check("https://127.0.0.1.example.com/", "https://127.0.0.1.example.com/");
    // A name decides nothing: where it leads is judged at every connection.
    check("http://localhost:3000/", "http://localhost:3000/");
    check("http://bot.internal/", "http://bot.internal/");

    let user_info = "the URL contains a user name or password; use an `Authorization` header instead";
    check("https://user:secret@example.com/", user_info);
    check("https://user@example.com/", user_info);
    check("https://:secret@example.com/", user_info);
    check("https://example.com:80@127.0.0.1/", user_info);
    check("ftp://example.com/", "the URL starts with `ftp:`; only https: and http: are supported");
    check("file:///etc/passwd", "the URL starts with `file:`; only https: and http: are supported");
    check("javascript:alert(1)", "the URL starts with `javascript:`; only https: and http: are supported");
    check(
        "https://example.com:0/",
        "the URL's port is 0, which is not valid; leave it out or give the real port",
    );
    let unreadable = |why: &str| {
        format!("the URL cannot be read ({why}); write a full URL such as https://example.com/hooks")
    };
    check("", &unreadable("relative URL without a base"));
    check("example.com/hooks", &unreadable("relative URL without a base"));
    check("http://", &unreadable("empty host"));
    check("http://?a", &unreadable("empty host"));
    check("http://[::1", &unreadable("invalid IPv6 address"));
    check("http://[fe80::1%25eth0]/", &unreadable("invalid IPv6 address"));
    check("http://256.256.256.256/", &unreadable("invalid IPv4 address"));
    check("http://example.com:99999/", &unreadable("invalid port number"));
    check("http://exa mple.com/", &unreadable("invalid international domain name"));
    check(
        "http://10.1.2.3/",
        "the URL's host 10.1.2.3 is in 10.0.0.0/8 (private), a network that deliveries may not reach; \
         use a public address, or ask the operator to add the network to ALLOWED_NETWORKS",
    );
    let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX - 20));
    check(&long, &long);
    check(&format!("{long}a"), "the URL has 2049 bytes; at most 2048 are allowed");
}

#[test]
fn unencrypted_urls_are_refused_where_https_is_required() {
    let check = |text: &str, expected: Option<BadUrl>| {
        assert_eq!(check_url(text, &Networks::default(), true).err(), expected, "{text:?}");
    };
    check("https://example.com/", None);
    check("http://example.com/", Some(BadUrl::NotHttps));
    check("ftp://example.com/", Some(BadUrl::Scheme("ftp".to_owned())));
}

#[test]
fn local_names_get_a_hint_and_no_other_do() {
    let check = |text: &str, expected: Option<&str>| {
        let hint = hint(&Url::parse(text).unwrap());
        assert_eq!(hint.is_some(), expected.is_some(), "{text}: {hint:?}");
        assert!(hint.zip(expected).is_none_or(|(hint, end)| hint.contains(&format!("`{end}`"))), "{text}");
    };
    check("http://localhost/", Some("localhost"));
    check("http://LOCALHOST./", Some("localhost"));
    check("http://bot.localhost/", Some("localhost"));
    check("http://bot.internal/", Some("internal"));
    check("http://printer.local/", Some("local"));
    check("http://bot.chat.svc/", Some("svc"));
    check("http://bot.chat.svc.cluster.local/", Some("local"));
    check("http://mylocalhost/", None);
    check("http://internal.example.com/", None);
    check("http://127.0.0.1/", None);
}
