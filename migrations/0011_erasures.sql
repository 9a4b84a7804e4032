-- What is taken out of the ledger before its time: everything a company has, and bodies that outlived their retention.

-- One row for each company that is to be forgotten, and that stays forgotten: what still arrives for it is dropped and
-- counted here. prune works on it chunk by chunk; where it stands is in the row, so any crash costs one chunk.
create table erasures (
    company_id uuid primary key,
    asked_at timestamptz not null default now(),
    asked_by text not null,
    -- What is being worked on; `done` when nothing is left.
    stage text not null default 'deliveries'
        constraint erasures_stage check (stage in ('deliveries', 'events', 'dead_letters', 'records', 'webhooks', 'done')),
    -- Of the deliveries: the webhook and the delivery behind which the next chunk begins.
    webhook_id uuid,
    cursor uuid,
    done_at timestamptz,
    -- How much it was so far. Of the deliveries all were emptied, and those that were still owed cancelled.
    webhooks bigint not null default 0,
    deliveries bigint not null default 0,
    cancelled bigint not null default 0,
    events bigint not null default 0,
    dead_letters bigint not null default 0,
    records bigint not null default 0,
    -- What arrived since it was asked for.
    dropped bigint not null default 0,
    dropped_at timestamptz
);

create index erasures_open_idx on erasures (asked_at) where done_at is null;

-- Caches learn of it as they learn of a changed webhook; there is none that bears the nil id.
create function erasure_asked() returns trigger language plpgsql as $$
begin
    perform pg_notify('webhooks_changed', new.company_id || ' 00000000-0000-0000-0000-000000000000');
    return null;
end $$;

create trigger erasure_asked after insert or update of asked_at on erasures
    for each row execute function erasure_asked();

-- Dead letters have many authors, and each of them copies a body. None makes one for a company that is erased, whatever
-- it knew when it began.
create function dead_letter_of_erased() returns trigger language plpgsql as $$
begin
    if not exists (select from erasures where company_id = new.company_id) then
        return new;
    end if;
    -- A delivery was counted as what it was; a message or an event arrives here only.
    if new.kind <> 'delivery' then
        update erasures set dropped = dropped + 1, dropped_at = now() where company_id = new.company_id;
    end if;
    return null;
end $$;

create trigger dead_letter_of_erased before insert on dead_letters
    for each row when (new.company_id is not null) execute function dead_letter_of_erased();

-- Nor can it begin anew under the same id, by credentials that know nothing of its end: a token of XTSystems, a JWT.
create function of_erased_company() returns trigger language plpgsql as $$
begin
    if exists (select from erasures where company_id = new.company_id) then
        raise exception 'the company was erased' using errcode = 'check_violation', constraint = 'company_erased';
    end if;
    return new;
end $$;

create trigger webhook_of_erased before insert on webhooks for each row execute function of_erased_company();
create trigger api_key_of_erased before insert on api_keys
    for each row when (new.company_id is not null) execute function of_erased_company();

-- Days whose bodies are gone although their history is not: once each.
create table payload_days (
    day date primary key,
    emptied_at timestamptz not null default now(),
    events bigint not null,
    deliveries bigint not null
);

-- What such a day still owed then, and so kept its body until it ends.
create table payloads_owed (
    delivery_id uuid primary key,
    event_id uuid not null
);

create index payloads_owed_event_idx on payloads_owed (event_id);
