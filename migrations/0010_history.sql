-- What the API's lists walk along. Deliveries get no further index: a company's list merges the walks of its webhooks
-- (docs/decisions.md, "No index by company on deliveries"), and an index is what their every insert and update would pay
-- for. So nothing here touches the history: the table is small, and built while others wait for an instant.

-- All webhooks of a company, the deleted ones too: their histories are part of its own.
create index webhooks_history_idx on webhooks (company_id, id);
