-- ingest.batch
with inserted as (
    insert into events (id, company_id, event_type, message_id, "timestamp", data, body_hash, traceparent,
                        matched, matched_as_of, fanned_out, violation)
    select id, company_id, event_type, message_id, ts, data::json, body_hash, traceparent,
           matched, matched_as_of, last, violation
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
                $8::text[], $9::integer[], $10::timestamptz[], $11::boolean[], $20::text[])
        as a (id, company_id, event_type, message_id, ts, data, body_hash, traceparent,
              matched, matched_as_of, last, violation)
    on conflict (id) do nothing
    returning id, company_id, event_type, matched
), owed as (
    insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, reason,
                                    queued_at)
    select id, company_id, webhook_id, event_id, event_type, 'event', status, reason,
           case when queued then now() end
    from unnest($12::uuid[], $13::uuid[], $14::uuid[], $15::uuid[], $16::text[], $17::text[], $18::text[],
                $19::boolean[])
        as d (id, company_id, webhook_id, event_id, event_type, status, reason, queued)
    where (event_id in (select id from inserted)) is true
    on conflict (id) do nothing
), counted as (
    insert into event_stats as s (company_id, event_type, minute, writer, events, unmatched, deliveries)
    select company_id, event_type, date_trunc('minute', now()), $21, count(*),
           count(*) filter (where matched = 0), sum(matched)
    from inserted
    group by company_id, event_type
    order by company_id, event_type
    on conflict (company_id, event_type, minute, writer) do update
    set events = s.events + excluded.events,
        unmatched = s.unmatched + excluded.unmatched,
        deliveries = s.deliveries + excluded.deliveries
)
select id as "id!", now() as "now!" from inserted
