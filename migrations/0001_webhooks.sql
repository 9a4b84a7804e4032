-- Webhooks: who wants what, and how. No foreign keys to companies or users: XTSystems owns those.
-- Rows change rarely; what changes with every delivery stands in `lanes`, so that a pace never wakes a cache.

create table webhooks (
    id uuid primary key default gen_random_uuid(),
    company_id uuid not null,
    name text not null constraint webhooks_name_length check (length(name) between 1 and 255),
    description text,
    url text not null,
    events text[] not null constraint webhooks_events_not_empty check (cardinality(events) > 0),
    active boolean not null default true,
    secret text not null,
    -- After a rotation both secrets sign until the grace ends.
    previous_secret text,
    previous_secret_until timestamptz,
    -- The guide's header bears one signature: the new one, or by choice the previous until the grace ends.
    guide_signature_is_previous boolean not null default false,
    headers json not null default '{}',
    retry_count integer not null default 3 constraint webhooks_retry_count_range check (retry_count between 1 and 20),
    -- Waits in seconds that replace `retry_count`; attempts in all are one more than it has entries.
    retry_schedule integer[],
    timeout_seconds integer not null default 30 constraint webhooks_timeout_range check (timeout_seconds between 1 and 60),
    max_in_flight integer constraint webhooks_max_in_flight_range check (max_in_flight between 1 and 10000),
    rate_limit double precision constraint webhooks_rate_limit_range check (rate_limit between 0.01 and 100000),
    auto_recover boolean not null default false,
    metadata json not null default '{}',
    -- A pause stands here because it is rare, must wake the caches and must be explained.
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text,
    -- History outlives its webhook.
    deleted_at timestamptz
);

create unique index webhooks_name_key on webhooks (company_id, name) where deleted_at is null;
create index webhooks_company_idx on webhooks (company_id, id) where deleted_at is null;

-- What matching depended on, and when, so that "why was it not sent last Tuesday" has an answer.
create table webhook_versions (
    webhook_id uuid not null,
    valid_from timestamptz not null,
    valid_to timestamptz not null default 'infinity',
    company_id uuid not null,
    events text[] not null,
    active boolean not null,
    paused boolean not null,
    deleted boolean not null,
    primary key (webhook_id, valid_from)
);

create index webhook_versions_company_idx on webhook_versions (company_id, valid_from);

-- One small row for each webhook: what is known and allowed for it. Rewritten often, hence the room in its pages;
-- no trigger, so that a reserved slot wakes nobody.
create table lanes (
    webhook_id uuid primary key,
    company_id uuid not null,
    -- Pace: the next free slot, by the database's clock.
    next_slot_at timestamptz,
    -- A `Retry-After` holds back the whole lane until then.
    held_back_until timestamptz,
    -- Breaker: open since, consecutive failures, and the one leased probe.
    opened_at timestamptz,
    open_reason text,
    failures integer not null default 0,
    next_probe_at timestamptz,
    probes integer not null default 0,
    probe_leased_until timestamptz,
    last_success_at timestamptz,
    -- Deliveries that wait in the ledger, as feed counted them last; ingest leaves what comes next to feed, too.
    waiting bigint not null default 0
) with (fillfactor = 50);

create index lanes_waiting_idx on lanes (webhook_id) where waiting > 0;

-- Every change of a webhook, by whatever way it comes, keeps its past and wakes the caches.
-- NOTIFY takes a global lock at commit, so it is sent from here only, never from the hot path.
create function webhook_changed() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into lanes (webhook_id, company_id) values (new.id, new.company_id) on conflict do nothing;
    end if;
    if tg_op = 'INSERT'
        or (old.events, old.active, old.paused_at is null, old.deleted_at is null)
            is distinct from (new.events, new.active, new.paused_at is null, new.deleted_at is null)
    then
        update webhook_versions
        set valid_to = clock_timestamp()
        where webhook_id = new.id and valid_to = 'infinity';
        insert into webhook_versions (webhook_id, valid_from, company_id, events, active, paused, deleted)
        values (new.id, clock_timestamp(), new.company_id, new.events, new.active,
                new.paused_at is not null, new.deleted_at is not null)
        on conflict (webhook_id, valid_from) do nothing;
    end if;
    perform pg_notify('webhooks_changed', new.company_id || ' ' || new.id);
    return null;
end $$;

create trigger webhook_changed after insert or update on webhooks for each row execute function webhook_changed();
