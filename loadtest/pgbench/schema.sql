-- What the PostgreSQL peers of the bench claim from: a stock row, and units of their own.
CREATE TABLE bench_stock (id integer PRIMARY KEY, next bigint NOT NULL, last bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO bench_stock VALUES (1, 1, 1000000000);
CREATE TABLE bench_claims (serial bigint PRIMARY KEY, user_ref text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE bench_units (serial bigint PRIMARY KEY, user_ref text COLLATE "C" UNIQUE) WITH (fillfactor = 50);
CREATE INDEX bench_units_free ON bench_units (serial) WHERE user_ref IS NULL;
