-- A dead letter keeps the event's `data`, not a rendered body: the body is rendered when it is sent, for the webhook as it is
-- then. Dead letters of before keep their `body`. They are posted as they are, for no statement can take `data` out of
-- them again: PostgreSQL's `json -> 'data'` refuses \u0000 and lone surrogates.

-- First what locks `webhook_deliveries`, as every statement does that writes to both tables: so none of them and this one wait
-- for each other.
-- Becoming dead writes the dead letter, whatever statement does it: both or neither.
-- It is an `after` trigger: processes of 0.3.0 insert a row of their own in the same statement, which comes first, and one of
-- the two is kept. What is asked for a test leaves no dead letter.
create function dead_letter_of_delivery() returns trigger language plpgsql as $$
begin
    insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, attempts, outcome,
                              response_status, data, "timestamp")
    select new.id, 'delivery', new.company_id, new.webhook_id, new.event_id, new.event_type,
           coalesce(new.reason, 'dead'), new.attempts, new.outcome, new.response_status, e.data, e."timestamp"
    from (select new.event_id as id) d
    -- The event of a replayed delivery may be gone, and its `data` before its row.
    left join events e on e.id = d.id and e.data is not null
    on conflict (id) do nothing;
    return null;
end $$;

create trigger dead_letter_of_delivery after update of status on webhook_deliveries
    for each row when (new.status = 'dead' and old.status is distinct from 'dead' and new.trigger <> 'test')
    execute function dead_letter_of_delivery();

alter table dead_letters
    -- Of a delivery: the event's `data`, byte for byte, and its time in whole seconds since 1970.
    add column data json,
    add column "timestamp" bigint;

-- Where a claim finds the data of an event whose day is gone. `dead_letters_event_idx` serves those of before.
create index dead_letters_event_data_idx on dead_letters (event_id, webhook_id) where data is not null;
