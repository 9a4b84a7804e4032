use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn walk(query: &Deliveries, webhooks: i64) -> Walk {
    Walk::new(query, None, 50, webhooks, at("2026-03-10T12:00:00Z"))
}

#[test]
fn spans_of_few_webhooks_are_whole_days_and_grow_until_they_reach_back_to_the_beginning() {
    let mut walk = walk(&Deliveries::default(), 1);
    let mut days = Vec::new();
    while let Some((low, high)) = walk.span() {
        days.push((time_of(low).date_naive().to_string(), time_of(high)));
        walk.went(None);
    }
    let begins: Vec<&str> = days.iter().map(|(low, _)| &**low).collect();
    assert_eq!(begins, ["2026-03-10", "2026-03-02", "2025-12-28", "1970-01-01"]);
    assert_eq!(days[0].1, at("2026-03-11T12:00:00Z"));
    assert!(days.windows(2).all(|pair| pair[1].1.date_naive().to_string() == pair[0].0), "{days:?}");
}

#[test]
fn spans_of_many_webhooks_begin_with_a_minute() {
    let mut walk = walk(&Deliveries::default(), 1_000);
    let (low, high) = walk.span().expect("a span");
    assert_eq!((time_of(high), time_of(low)), (at("2026-03-11T12:00:00Z"), at("2026-03-10T11:58:59.999Z")));
    walk.went(None);
    assert_eq!(walk.before, low);
}

#[test]
fn a_look_that_ends_early_goes_on_below_its_edge_in_the_same_span_and_looks_further() {
    let query = Deliveries { statuses: Some(vec!["dead".to_owned()]), ..Deliveries::default() };
    let mut walk = walk(&query, 1);
    let (low, _) = walk.span().expect("a span");
    let edge = first_at(at("2026-03-10T03:00:00Z"));
    assert_eq!(walk.each(), LOOK_BEGINS);
    walk.went(Some(edge));
    assert_eq!(walk.span(), Some((low, edge)));
    assert_eq!(walk.each(), 4 * LOOK_BEGINS);
}

#[test]
fn a_walk_keeps_within_the_times_asked_for() {
    let query = Deliveries {
        since: Some(at("2026-03-01T06:00:00Z")),
        until: Some(at("2026-03-02T06:00:00Z")),
        ..Deliveries::default()
    };
    let mut walk = walk(&query, 1);
    let mut spans = Vec::new();
    while let Some(span) = walk.span() {
        spans.push(span);
        walk.went(None);
    }
    assert_eq!(spans.first().map(|span| time_of(span.1)), query.until);
    assert_eq!(spans.last().map(|span| time_of(span.0)), query.since);
    let never = Deliveries { since: query.until, until: query.since, ..Deliveries::default() };
    assert_eq!(self::walk(&never, 1).span(), None);
}

#[test]
fn times_beyond_the_ids_are_their_ends() {
    assert_eq!(id_at(DateTime::<Utc>::MIN_UTC), Uuid::nil());
    assert_eq!(id_at(DateTime::<Utc>::MAX_UTC), Uuid::max());
    assert_eq!(below(Uuid::max(), TimeDelta::MAX), Uuid::nil());
    for before in [Uuid::nil(), Uuid::from_u128(1), Uuid::max()] {
        for days in [1, 8, 64] {
            assert!(below(before, TimeDelta::days(days)) <= before, "{before} {days}");
        }
    }
}

#[test]
fn types_are_equal_or_begin_so() {
    let types = |list: &[&str]| {
        let event_types = Some(list.iter().map(|&text| text.to_owned()).collect());
        Deliveries { event_types, ..Deliveries::default() }.types()
    };
    let list = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
    assert_eq!(types(&["a.b", "c.*"]), (list(&["a.b"]), list(&["c."])));
    assert_eq!(types(&["a.b", "*"]), (None, None));
    assert_eq!(types(&[]), (list(&[]), list(&[])));
    assert_eq!(Deliveries::default().types(), (None, None));
}
