-- What feed works from: orders to send again, the lease of the one active feed, and the tide marks that tell
-- whether a job can still be in a queue.

create table replays (
    id uuid primary key,
    company_id uuid not null,
    kind text not null constraint replays_kind check (kind in ('replay', 'resume', 'recovery')),
    webhook_id uuid,
    -- What to send again: {"deliveries": [...]} or a filter {"webhook_id", "event_type", "status", "since", "until"}.
    filter json not null default '{}',
    -- Deliveries a second.
    rate integer not null constraint replays_rate_range check (rate between 1 and 10000),
    requested_by text not null,
    status text not null default 'expanding' constraint replays_status check (status in ('expanding', 'running', 'done')),
    started_at timestamptz not null default now(),
    -- Expanded up to here.
    cursor uuid,
    expanded_at timestamptz,
    ended_at timestamptz,
    -- How many deliveries it made, and how many sources had nothing left to send.
    made bigint not null default 0,
    skipped bigint not null default 0
);

create index replays_open_idx on replays (status, id) where status <> 'done';
create unique index replays_resume_key on replays (webhook_id) where kind = 'resume' and status <> 'done';
create index replays_company_idx on replays (company_id, started_at);

-- One holder each: the active feed, the active prune.
create table leases (
    name text primary key,
    holder text not null,
    taken_at timestamptz not null,
    held_until timestamptz not null
);

-- A numbered message went into each deliveries queue; the worker that met it says so here. `number` is the instant
-- of its publishing in microseconds since 1970 by this database's clock.
create table tide_marks (
    shard smallint not null,
    number bigint not null,
    through_at timestamptz not null default now(),
    primary key (shard, number)
);
