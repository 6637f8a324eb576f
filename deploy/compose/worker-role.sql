-- Run once, when the database is made: the workers' role, which `usage-worker migrate --roles` then gives its rights.
\set password `cat /run/secrets/worker-password`
CREATE ROLE usage_worker LOGIN PASSWORD :'password';
