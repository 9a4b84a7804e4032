-- What is known of the types of events, and what their schemas have to complain of.

-- Of an event: null where its type's schema has no complaint, or where there was none. Not in one migration with the indexes:
-- it locks all partitions against everybody, for an instant, and would wait for that lock with the indexes already built.
alter table events add column violation text;

alter table event_types
    -- `data` as such an event bears it, to show and to try.
    add column sample json,
    -- JSON Schemas of `data` by version: {"1": {…}, "2": {…}}. An event fits its type when it fits one of them, for
    -- publishers of the old and of the new version run side by side for a while.
    add column schemas json not null default '{}',
    -- What becomes of an event that fits none: taken and flagged, or a dead letter.
    add column on_violation text not null default 'flag'
        constraint event_types_on_violation check (on_violation in ('flag', 'dead_letter')),
    add column updated_at timestamptz not null default now(),
    add column updated_by text;

-- Wakes what ingest remembers of schemas. A process of an earlier release takes it for a change of everything, which
-- only makes it read its webhooks anew.
create function event_types_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('webhooks_changed', 'event_types');
    return null;
end $$;

create trigger event_types_changed after insert or update or delete on event_types
    for each statement execute function event_types_changed();

-- The guide's types, as the guide fills them or as its tables suggest.
update event_types t
set sample = s.sample::json
from (values
    ('ticket.created', '{"id":1042,"title":"Printer on fire","description":"It smokes","priority":"high","status":"open","created_by":"alice","company_name":"Example Ltd","created_at":"2026-01-31T12:00:00"}'),
    ('ticket.updated', '{"id":1042,"title":"Printer on fire","status":"in_progress","priority":"high","updated_by":"bob","updated_at":"2026-01-31T12:30:00","notes":[{"author":"bob","text":"On my way"}]}'),
    ('ticket.closed', '{"id":1042,"title":"Printer on fire","status":"closed","closed_by":"bob","closed_at":"2026-01-31T13:00:00"}'),
    ('asset.created', '{"id":7,"name":"Printer, 2nd floor","kind":"printer","status":"active","created_at":"2026-01-31T12:00:00"}'),
    ('asset.updated', '{"id":7,"name":"Printer, 2nd floor","kind":"printer","status":"in_repair","updated_at":"2026-01-31T13:00:00"}'),
    ('user.created', '{"id":"5f0c6f0e-8b0e-4a58-9d6a-3d6f2f3f9c11","username":"alice","created_at":"2026-01-31T12:00:00"}'),
    ('company.created', '{"id":"8d1f7c5a-2f6e-4c55-9f0c-0a6d4f1c2b3e","name":"Example Ltd","created_at":"2026-01-31T12:00:00"}'),
    ('machine.registered', '{"id":"m-31","hostname":"front-desk","os":"Windows 11","registered_at":"2026-01-31T12:00:00"}'),
    ('machine.approved', '{"id":"m-31","hostname":"front-desk","approved_by":"bob","approved_at":"2026-01-31T12:10:00"}'),
    ('alert.triggered', '{"id":99,"severity":"critical","message":"Disk almost full","machine_id":"m-31","triggered_at":"2026-01-31T12:00:00"}')
) as s (name, sample)
where t.name = s.name;
