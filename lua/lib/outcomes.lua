-- What became of a claim, as the first byte of its record in a reply.
-- The numbers are those of src/domain/outcome.rs; a test compares the two lists.
local GRANTED = '\1'
local REPLAYED = '\2'
local TEMPLATE_INACTIVE = '\15'
local NOT_STARTED = '\16'
local ENDED = '\17'
local USER_LIMIT_REACHED = '\21'
local USER_DAILY_LIMIT_REACHED = '\22'
local QUOTA_EXCEEDED = '\23'
local SOLD_OUT = '\24'
local DAILY_LIMIT_REACHED = '\25'
local UNAVAILABLE = '\26'
local OVERLOADED = '\27'
