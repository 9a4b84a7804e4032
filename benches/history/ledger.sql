-- A ledger with a long history, for `benches/history.rs` and `tests/it/plans/history.rs`: made, not recorded.
--
-- Of twelve deliveries ten go to one webhook, a1 of company c1; one to the thousand webhooks of company c2 in turn, one to
-- the ten of company c3. An event is shared by ten. One in 101 is dead, one in 50,001 was answered with 418.

insert into webhooks (id, company_id, name, url, events, secret)
select
    lpad(name, 32, '0')::uuid,
    lpad(company, 32, '0')::uuid,
    name,
    'http://receiver.test/',
    '{*}',
    'of no use to anybody'
from (
    select 'a1' as name, 'c1' as company
    union all
    select to_hex(x'b0000'::int + n), 'c2' from generate_series(0, 999) n
    union all
    select to_hex(x'd0000'::int + n), 'c3' from generate_series(0, 9) n
) as w;

-- An id that lies so many milliseconds after 1970, the rest made of a text.
create function made_id(millis bigint, text text) returns uuid language sql immutable parallel safe as $$
    select (lpad(to_hex(millis), 12, '0') || '8' || substr(md5(text), 1, 3) || '8' || substr(md5(text), 5, 15))::uuid
$$;

-- So many deliveries on each of the last days, today the last, a day a transaction.
create procedure make_history(days integer, per_day integer) language plpgsql as $$
declare
    first bigint;
begin
    perform ensure_partitions((now() at time zone 'UTC')::date - (days - 1), days + 14);
    commit;
    for day in reverse days - 1 .. 0 loop
        first := extract(epoch from ((now() at time zone 'UTC')::date - day)::timestamp at time zone 'UTC') * 1000;
        insert into events (id, company_id, event_type, message_id, "timestamp", data, body_hash, matched, matched_as_of,
                            fanned_out)
        select
            made_id(first + n::bigint * 86400000 / per_day, 'event ' || n),
            lpad('c1', 32, '0')::uuid,
            'ticket.updated',
            day || ' ' || n,
            first / 1000,
            json_build_object('text', repeat('x', 1000)),
            0,
            10,
            now(),
            true
        from generate_series(0, per_day - 1, 10) n;
        insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, reason, attempts,
                                        due_at, queued_at, created_at, delivered_at, attempted_at, outcome, why, url,
                                        address, request_head, response_status, response_head, response_body,
                                        response_truncated, repeated, connect_us, first_byte_us, total_us)
        select
            made_id(millis, n::text),
            lpad(case n % 12 when 10 then 'c2' when 11 then 'c3' else 'c1' end, 32, '0')::uuid,
            lpad(case n % 12
                     when 10 then to_hex(x'b0000'::int + n / 12 % 1000)
                     when 11 then to_hex(x'd0000'::int + n / 12 % 10)
                     else 'a1'
                 end, 32, '0')::uuid,
            made_id(first + (n - n % 10)::bigint * 86400000 / per_day, 'event ' || n - n % 10),
            (array['ticket.created', 'ticket.updated', 'asset.updated'])[n % 3 + 1],
            'event',
            case when n % 101 = 0 then 'dead' else 'delivered' end,
            case when n % 101 = 0 then 'attempts exhausted' end,
            1,
            at,
            at,
            at,
            case when n % 101 > 0 then at end,
            at,
            case when n % 101 = 0 then 'server_error' else 'accepted' end,
            'the receiver accepted it with 200',
            'http://receiver.test/',
            '203.0.113.9:80',
            repeat('x-sent: some value' || chr(13) || chr(10), 20),
            case when n % 101 = 0 then 500 when n % 50001 = 17 then 418 else 200 end,
            repeat('x-answered: some value' || chr(13) || chr(10), 8),
            'ok',
            false,
            false,
            400,
            900,
            1000
        from generate_series(0, per_day - 1) n
        cross join lateral (select first + n::bigint * 86400000 / per_day as millis) as t
        cross join lateral (select to_timestamp(millis / 1000.0) as at) as u;
        commit;
    end loop;
end $$;
