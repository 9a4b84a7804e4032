-- Events as their company sees them.

-- Newest first, for one company: by type, time and id. Built in each partition under a lock that holds up ingest, not
-- publishers: what they publish meanwhile waits in the broker.
create index events_company_idx on events (company_id, id);
-- The few that nobody wanted, which a company asks for when something did not arrive.
create index events_unmatched_idx on events (company_id, id) where matched = 0;
