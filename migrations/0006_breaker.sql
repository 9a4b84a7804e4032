-- What a lane remembers of a receiver that fails, and what becomes known of it.

alter table lanes
    -- The first failure since the last success, and the event it was of.
    add column failing_since timestamptz,
    add column failing_event uuid,
    -- Whether more than one event has failed since: one bad event never pauses a webhook.
    add column failing_many boolean not null default false,
    -- Whether one of the failures since was of an event that is not this service's own.
    add column failing_loud boolean not null default false,
    -- When a worker last gave something back because the lane had no room: feed feeds it more slowly then.
    add column full_at timestamptz;

-- What feed looks at: lanes that fail, and lanes that are open.
create index lanes_failing_idx on lanes (failing_since) where failing_since is not null;
create index lanes_open_idx on lanes (opened_at) where opened_at is not null;

-- Who was down since when, and who was paused: one row for each change, written by the statement that makes it.
-- Feed tells others of it (an operational event) and orders what follows (a recovery), then sets `announced_at`.
create table lane_transitions (
    webhook_id uuid not null,
    at timestamptz not null,
    kind text not null constraint lane_transitions_kind check (kind in ('opened', 'closed', 'paused', 'resumed')),
    company_id uuid not null,
    -- In words for a person.
    reason text,
    -- Of a closing: the opening. Of an opening and a closing: the first failure.
    opened_at timestamptz,
    failing_since timestamptz,
    -- Brought about by an operational event: nobody is told, or such events would cause others.
    silent boolean not null default false,
    announced_at timestamptz,
    primary key (webhook_id, at, kind)
);

create index lane_transitions_company_idx on lane_transitions (company_id, at);
create index lane_transitions_open_idx on lane_transitions (at, webhook_id) where announced_at is null;
-- What prune looks for.
create index lane_transitions_at_idx on lane_transitions (at);

-- Dead letters that nobody was told of yet. Those from before this migration are none.
alter table dead_letters add column announced boolean not null default true;
alter table dead_letters alter column announced set default false;
create index dead_letters_unannounced_idx on dead_letters (created_at, id) where kind = 'delivery' and not announced;
-- What a recovery walks along.
create index dead_letters_recovery_idx on dead_letters (webhook_id, id) where kind = 'delivery' and status = 'open';

-- A pause and its end are told of whatever way they come: by a person, by the receiver's 410, by the service itself.
create function webhook_paused() returns trigger language plpgsql as $$
begin
    insert into lane_transitions (webhook_id, at, kind, company_id, reason)
    values (new.id, coalesce(new.paused_at, clock_timestamp()),
            case when new.paused_at is null then 'resumed' else 'paused' end, new.company_id,
            coalesce(new.pause_reason, 'resumed'))
    on conflict do nothing;
    return null;
end $$;

create trigger webhook_paused after update of paused_at on webhooks
    for each row when ((old.paused_at is null) is distinct from (new.paused_at is null))
    execute function webhook_paused();

-- What the service itself has to say, as events like any other.
insert into event_types (name, description) values
    ('webhook.paused', 'A webhook was paused; its events are held'),
    ('webhook.failing', 'The receiver of a webhook fails; its events wait'),
    ('webhook.recovered', 'The receiver of a failing webhook is back'),
    ('delivery.dead_lettered', 'A delivery was given up')
on conflict do nothing;
