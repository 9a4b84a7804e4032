-- search.deliveries
with looked as (
    select
        w.id as webhook_id,
        d.id,
        d.status,
        d.reason,
        d.event_type,
        d.response_status,
        d.outcome,
        d.trigger
    from webhooks w
    cross join lateral (
        select *
        from webhook_deliveries
        where company_id = $1
            and (webhook_id, id) < (w.id, $4)
            and (webhook_id, id) >= (w.id, $3)
            and id >= $3
            and id < $4
        order by webhook_id desc, id desc
        limit $5
    ) d
    where w.company_id = $1
        and ($2::uuid[] is null or w.id = any($2))
), edge as (
    select low
    from (
        select count(*) as rows, (array_agg(id order by id))[1] as low
        from looked
        group by webhook_id
    ) as walk
    where rows >= $5
    order by low desc
    limit 1
)
select
    array(
        select id
        from looked
        where id >= coalesce((select low from edge), $3)
            and ($7::text[] is null or status = any($7))
            and ($8::text[] is null
                or event_type = any($8)
                or exists (select from unnest($9::text[]) as t (prefix) where starts_with(event_type, t.prefix)))
            and ($10::integer[] is null or response_status = any($10))
            and ($11::text[] is null or outcome = any($11))
            and ($12::text[] is null
                or exists (select from unnest($12::text[]) as t (prefix) where starts_with(reason, t.prefix)))
            and ($13::text[] is null or trigger = any($13))
        order by id desc
        limit $6
    ) as "ids!",
    (select low from edge) as edge,
    (select count(*) from looked) as "looked_at!"
