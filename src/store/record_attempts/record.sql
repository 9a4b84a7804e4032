-- deliveries.record_attempts
with made as (
    select *
    from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::double precision[], $6::boolean[],
                $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                $13::integer[], $14::text[], $15::text[], $16::boolean[], $17::boolean[],
                $18::integer[], $19::integer[], $20::integer[], $21::integer[], $22::integer[])
        as m (id, number, status, reason, wait, queued, attempted_at, outcome, why, url, address,
              request_head, response_status, response_head, response_body, response_truncated, repeated,
              dns_us, connect_us, tls_us, first_byte_us, total_us)
), moved as (
    insert into webhook_delivery_attempts
        (delivery_id, company_id, number, attempted_at, outcome, why, url, address, request_head, response_status,
         response_head, response_body, response_truncated, repeated,
         dns_us, connect_us, tls_us, first_byte_us, total_us)
    select d.id, d.company_id, d.attempts, d.attempted_at, d.outcome, d.why, d.url, d.address, d.request_head,
           d.response_status, d.response_head, d.response_body, d.response_truncated, d.repeated,
           d.dns_us, d.connect_us, d.tls_us, d.first_byte_us, d.total_us
    from made m
    join webhook_deliveries d on d.id = m.id
    where m.number > 1
      and d.attempts = m.number - 1
      and d.status in ('pending', 'held')
      and d.outcome is not null
    on conflict do nothing
), recorded as (
    update webhook_deliveries d
    set attempts = m.number,
        status = case when m.status = 'pending' then d.status else m.status end,
        reason = case when m.status = 'pending' then d.reason else m.reason end,
        due_at = case when m.status = 'pending' then now() + make_interval(secs => m.wait) else d.due_at end,
        queued_at = case when m.queued and d.status = 'pending' then now() + make_interval(secs => m.wait) end,
        claimed_until = null,
        deaths = 0,
        delivered_at = case when m.status = 'delivered' then now() end,
        attempted_at = m.attempted_at,
        outcome = m.outcome,
        why = m.why,
        url = m.url,
        address = m.address,
        request_head = m.request_head,
        response_status = m.response_status,
        response_head = m.response_head,
        response_body = m.response_body,
        response_truncated = m.response_truncated,
        repeated = m.repeated,
        dns_us = m.dns_us,
        connect_us = m.connect_us,
        tls_us = m.tls_us,
        first_byte_us = m.first_byte_us,
        total_us = m.total_us
    from made m
    where d.id = m.id
      and d.attempts = m.number - 1
      and d.status in ('pending', 'held')
    returning d.id, d.webhook_id, d.queued_at
), paused as (
    update webhooks w
    set paused_at = now(), paused_by = 'xtwebhooks', pause_reason = g.why, updated_at = now()
    from (select distinct on (id) id, why from unnest($23::uuid[], $24::text[]) as g (id, why)) g
    where w.id = g.id and w.paused_at is null and w.deleted_at is null
), heard as (
    select *
    from unnest($25::uuid[], $26::integer[], $27::boolean[], $28::integer[], $29::uuid[], $30::boolean[],
                $31::text[], $32::text[], $33::boolean[], $34::boolean[], $35::double precision[],
                $36::double precision[])
        as h (webhook_id, attempts, succeeded, failures, failed_event, failed_many, share, last, silent, probe,
              rate_limited_for, jitter)
), concerned as materialized (
    -- A success on a lane that is well goes no further than this.
    select h.*, l.webhook_id is null as is_missing
    from heard h
    left join lanes l on l.webhook_id = h.webhook_id
    where h.failures > 0
       or h.probe
       or h.rate_limited_for > 0
       or l.webhook_id is null
       or (h.failed_event is not null and not l.failing_many
           and (h.failed_many or l.failing_event is distinct from h.failed_event))
       or (h.succeeded
           and (l.failures > 0 or l.opened_at is not null or l.failing_since is not null
                or l.last_success_at is null
                or l.last_success_at < now() - make_interval(secs => $40)))
), living as materialized (
    -- Only where something of the batch was not recorded are the rows of each webhook counted.
    select c.*, w.company_id,
           case when c.is_missing then false
                when (select count(*) from recorded) = $44 then true
                else c.attempts = (select count(*) from recorded r where r.webhook_id = c.webhook_id)
           end as is_whole
    from concerned c
    join webhooks w on w.id = c.webhook_id
    where w.deleted_at is null
), made_lanes as (
    insert into lanes (webhook_id, company_id)
    select webhook_id, company_id
    from living
    where is_missing
    order by webhook_id
    on conflict do nothing
), locked as (
    -- Nothing here but the lane itself may change while its lock is waited for.
    select v.*, l.failures as failures_before, l.opened_at, l.failing_since, l.failing_event, l.failing_many,
           l.failing_loud, l.held_back_until as rate_limited_until, l.probes, l.next_probe_at
    from living v
    join lanes l on l.webhook_id = v.webhook_id
    where v.is_whole
    order by l.webhook_id
    for update of l
), judged as materialized (
    -- The same rules are in `tests/it/lanes/breaker_model.rs`; a test compares the two.
    select k.*, n.failures_now, n.at, n.rate_limited_until_now,
           (k.failures > 0 and not k.silent) or (not k.succeeded and k.failing_loud) as is_loud,
           a.asks and k.opened_at is null as opens,
           not a.asks and k.succeeded and k.opened_at is not null as closes,
           k.rate_limited_for > 0
               and (coalesce(k.rate_limited_until, '-infinity') <= n.at
                    or n.rate_limited_until_now > k.rate_limited_until + make_interval(secs => $41))
               as becomes_rate_limited,
           case when k.failed_event is null then case when not k.succeeded then k.failing_since end
                when k.succeeded then n.at
                else coalesce(k.failing_since, n.at) end as failing_since_now,
           left(case when n.failures_now >= $37 then n.failures_now || ' attempts in a row failed'
                     else k.share end || '; the last: ' || k.last, $42) as reason
    from locked k
    -- The clock is read once the lock is held, so that what is written is in the order of its doing.
    cross join lateral (
        select clock_timestamp() as at
        where k.webhook_id is not null
    ) t
    cross join lateral (
        select t.at, k.failures + case when k.succeeded then 0 else k.failures_before end as failures_now,
               greatest(k.rate_limited_until, t.at + make_interval(secs => k.rate_limited_for))
                   as rate_limited_until_now
    ) n
    cross join lateral (
        select k.failures > 0 and (n.failures_now >= $37 or k.share is not null) as asks
    ) a
), changed as (
    update lanes l
    set failures = j.failures_now,
        opened_at = case when j.opens then j.at when not j.closes then j.opened_at end,
        open_reason = case when j.opens then j.reason when not j.closes then l.open_reason end,
        probes = case when j.opens or j.succeeded then 0
                      -- Whoever answers a probe is there, whatever he says: he is soon asked again.
                      when j.opened_at is not null and j.probe
                          then case when j.failures > 0 then j.probes + 1 else 0 end
                      else j.probes end,
        next_probe_at = case when j.closes then null
                             when j.opens or (j.opened_at is not null and j.succeeded)
                                 then j.at + make_interval(secs => ($38::double precision[])[1] * j.jitter)
                             when j.opened_at is not null and j.probe
                                 then j.at + make_interval(secs => j.jitter
                                      * ($38::double precision[])[case when j.failures > 0 then least(j.probes + 2, $39)
                                                                            else 1 end])
                             else j.next_probe_at end,
        probe_leased_until = case when not (j.opens or j.closes or j.probe) then l.probe_leased_until end,
        failing_since = j.failing_since_now,
        failing_event = case when j.failed_event is not null
                                 then case when j.succeeded then j.failed_event
                                           else coalesce(j.failing_event, j.failed_event) end
                             when not j.succeeded then j.failing_event end,
        failing_many = case when j.failed_event is not null
                                then j.failed_many
                                     or (not j.succeeded
                                         and (j.failing_many
                                              or coalesce(j.failing_event <> j.failed_event, false)))
                            else not j.succeeded and j.failing_many end,
        failing_loud = j.is_loud,
        last_success_at = case when j.succeeded then j.at else l.last_success_at end,
        held_back_until = case when j.rate_limited_for > 0 then j.rate_limited_until_now
                               else j.rate_limited_until end
    from judged j
    where l.webhook_id = j.webhook_id
), made_known as (
    insert into lane_transitions (webhook_id, at, kind, company_id, reason, opened_at, failing_since, silent)
    select j.webhook_id, j.at, case when j.opens then 'opened' else 'closed' end, j.company_id,
           case when j.opens then j.reason else $43 end,
           case when j.opens then j.at else j.opened_at end,
           case when j.opens then j.failing_since_now else j.failing_since end,
           case when j.opens then not j.is_loud
                else exists (select
                             from lane_transitions t
                             where t.webhook_id = j.webhook_id
                               and t.at = j.opened_at
                               and t.kind = 'opened'
                               and t.silent) end
    from judged j
    where j.opens or j.closes
    on conflict do nothing
)
select id as "id!", queued_at, null::boolean as missed, null::boolean as opened, null::boolean as closed,
       null::boolean as rate_limited, null::timestamptz as since, null::timestamptz as until, null::text as reason
from recorded
union all
select webhook_id, null, true, null, null, null, null, null, null
from living
where not is_whole
union all
select webhook_id, null, false, opens, closes, becomes_rate_limited,
       case when opens then failing_since_now else opened_at end, rate_limited_until_now, reason
from judged
where opens or closes or becomes_rate_limited
