-- The ledger of what is owed: events, deliveries and attempts, in partitions of one day each by id.
-- Ids begin with their time, so the partition follows from the id alone. There is no default partition: it would
-- forbid `detach concurrently` and make attaching scan it.

create table events (
    id uuid not null primary key,
    company_id uuid not null,
    event_type text not null,
    message_id text not null,
    -- Whole seconds since 1970 as published (any 64-bit number), or those of intake; goes on the wire.
    "timestamp" bigint not null,
    received_at timestamptz not null default now(),
    -- Byte for byte as published. `jsonb` would reorder keys, round numbers and refuse \u0000.
    data json,
    -- Tells a repeat from another body under the same message id.
    body_hash bigint not null,
    traceparent text,
    -- How many webhooks wanted it, and the instant of the subscriptions it was matched with.
    matched integer not null,
    matched_as_of timestamptz not null,
    -- Set with the last chunk: deliveries are inserted while it is false and none after, so that a late repeat
    -- reaches no webhook made since.
    fanned_out boolean not null
) partition by range (id);

create index events_message_idx on events (company_id, message_id);

create table webhook_deliveries (
    id uuid not null primary key,
    company_id uuid not null,
    webhook_id uuid not null,
    event_id uuid not null,
    event_type text not null,
    trigger text not null constraint webhook_deliveries_trigger check (trigger in ('event', 'test', 'replay', 'recovery')),
    status text not null constraint webhook_deliveries_status check (status in ('pending', 'held', 'delivered', 'dead', 'cancelled')),
    -- Why it is where it is, where the status alone does not say.
    reason text,
    attempts integer not null default 0,
    -- When the next attempt may start.
    due_at timestamptz not null default now(),
    -- When a job was made for it; null while it waits here.
    queued_at timestamptz,
    -- A request may be under way until then.
    claimed_until timestamptz,
    -- How often its job was found missing, and how often an attempt was made whose number was already recorded.
    rescues smallint not null default 0,
    repeats smallint not null default 0,
    -- How often in a row whoever had claimed it was gone with nothing recorded. The broker cannot count this: each
    -- time a new job is made once the claim has run out.
    deaths smallint not null default 0,
    replay_id uuid,
    created_at timestamptz not null default now(),
    delivered_at timestamptz,
    -- The latest attempt, whole. Earlier ones are moved to `webhook_delivery_attempts` by the statement that
    -- records the next: a success at first try is one row in all.
    attempted_at timestamptz,
    outcome text,
    why text,
    url text,
    address text,
    request_head text,
    response_status integer,
    response_head text,
    response_body text,
    response_truncated boolean,
    repeated boolean,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    total_us integer
) partition by range (id);

-- A webhook's history, newest first.
create index webhook_deliveries_webhook_idx on webhook_deliveries (webhook_id, id);
-- What feed looks for: waits in the ledger, oldest due first within a webhook, replays and recoveries last.
-- A number, not `replay_id is not null`: PostgreSQL rewrites comparisons with false so that they miss the index, and
-- then sorts the whole backlog of a webhook for its oldest few.
create index webhook_deliveries_waiting_idx
    on webhook_deliveries (webhook_id, (case when replay_id is null then 0 else 1 end), due_at, id)
    where status = 'pending' and queued_at is null;
create index webhook_deliveries_held_idx on webhook_deliveries (webhook_id, id) where status = 'held';
-- What rescue looks for: should have a job since then.
create index webhook_deliveries_queued_idx on webhook_deliveries (greatest(queued_at, due_at))
    where status = 'pending' and queued_at is not null;
-- What keeps a replay from being done; what has ended leaves the index, or its end would be looked for among millions.
create index webhook_deliveries_replay_idx on webhook_deliveries (replay_id)
    where replay_id is not null and status in ('pending', 'held');

create table webhook_delivery_attempts (
    delivery_id uuid not null,
    number integer not null,
    attempted_at timestamptz not null,
    outcome text not null,
    why text,
    url text,
    address text,
    request_head text,
    response_status integer,
    response_head text,
    response_body text,
    response_truncated boolean,
    repeated boolean,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    total_us integer,
    primary key (delivery_id, number)
) partition by range (delivery_id);

-- The least id of a day.
create function first_id_of(day date) returns uuid language sql immutable parallel safe as $$
    select (lpad(to_hex((extract(epoch from day::timestamp at time zone 'UTC') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the partitions of `days` days from `first` on, where they are missing; returns how many it made.
-- Safe to call from several processes at once.
create function ensure_partitions(first date, days integer) returns integer language plpgsql as $$
declare
    parent text;
    day date;
    name text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('xtwebhooks.partitions'));
    foreach parent in array array['events', 'webhook_deliveries', 'webhook_delivery_attempts'] loop
        for i in 0 .. days - 1 loop
            day := first + i;
            name := parent || '_' || to_char(day, 'YYYYMMDD');
            if to_regclass(name) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L)',
                    name, parent, first_id_of(day), first_id_of(day + 1));
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

-- Yesterday too: an event may be a day old when it is taken in.
select ensure_partitions((now() at time zone 'UTC')::date - 1, 16);

-- What was given up, with a copy of its own, kept longer than the history.
create table dead_letters (
    id uuid primary key,
    kind text not null constraint dead_letters_kind check (kind in ('delivery', 'event', 'message')),
    status text not null default 'open' constraint dead_letters_status check (status in ('open', 'replayed', 'discarded')),
    company_id uuid,
    webhook_id uuid,
    event_id uuid,
    event_type text,
    reason text not null,
    field text,
    attempts integer not null default 0,
    outcome text,
    response_status integer,
    -- For a delivery the bytes that were to be posted; for a message those that came.
    body bytea,
    headers json,
    routing_key text,
    message_id text,
    created_at timestamptz not null default now(),
    replayed_at timestamptz,
    replay_id uuid
);

create index dead_letters_company_idx on dead_letters (company_id, created_at, id);
create index dead_letters_webhook_idx on dead_letters (webhook_id, created_at, id) where webhook_id is not null;
-- What a replay of all that is dead walks along.
create index dead_letters_open_idx on dead_letters (company_id, id) where kind = 'delivery' and status = 'open';
create index dead_letters_created_idx on dead_letters (created_at);
-- Where a claim finds the body of an event whose day is gone.
create index dead_letters_event_idx on dead_letters (event_id, webhook_id) where body is not null;

-- The first id given to a message whose own time cannot place it: a second copy gets the same.
create table intake_keys (
    company_id uuid not null,
    message_id text not null,
    event_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (company_id, message_id)
);

create index intake_keys_created_idx on intake_keys (created_at);

-- The registry of event types. A type that is missing here is taken all the same.
create table event_types (
    name text primary key,
    description text not null,
    created_at timestamptz not null default now()
);

insert into event_types (name, description) values
    ('ticket.created', 'New ticket created'),
    ('ticket.updated', 'Ticket modified'),
    ('ticket.closed', 'Ticket closed'),
    ('asset.created', 'New asset added'),
    ('asset.updated', 'Asset modified'),
    ('user.created', 'New user registered'),
    ('company.created', 'New company added'),
    ('machine.registered', 'Machine registration'),
    ('machine.approved', 'Machine approved'),
    ('alert.triggered', 'System alert');
