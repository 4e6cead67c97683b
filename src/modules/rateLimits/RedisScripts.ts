/**
 * What is done in Redis, each in one atomic step and one round trip.
 *
 * The state of buckets is laid out as `effect/persistence`'s RateLimiter has it: a key with the tokens, and one with
 * `:refill` at its end with the Unix ms at which the refill interval that runs began. The library's own script is not
 * used, for these reasons beside those in TokenBucket.ts:
 * - It takes from one bucket. Several of them, of which one refuses, need a second round trip to give back, and until then
 *   keep out others.
 * - It counts by the clock of the replica that asks. Where those clocks differ, a full bucket that is taken from by the
 *   one that is behind gets tokens for the difference as soon as another asks. Ours counts by the clock of Redis.
 * - It writes on refusal, too, and so lets who keeps on asking keep the state alive.
 */
import { hash } from "node:crypto"

/** A script, and the name by which Redis knows it once it has run. */
export interface Script {
  readonly lua: string
  readonly sha1: string
}

const script = (lua: string): Script => ({ lua, sha1: hash("sha1", lua) })

/**
 * KEYS: for each demand the keys of tokens and of the refill interval. ARGV: `1` to take all or nothing and `0` to take
 * also what is not there (or to give back, below zero), then for each demand amount, limit, and ms to get one back.
 *
 * Answers 1 if everything was taken and 0 if nothing was, then for each demand whether its bucket had too little, the tokens
 * (those left, or those there are where they are too few) and the ms for which the next one has been on its way.
 */
export const take = script(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local strict = ARGV[1] == "1"
local values = redis.call("MGET", unpack(KEYS))
local buckets = {}
local order = {}
local enough = true
local reply = {1}

local function keep(key, bucket)
  local missing = bucket.limit - bucket.tokens
  if missing <= 0 then
    -- A bucket that is not there is a full one.
    redis.call("DEL", key, bucket.refill_key)
    return
  end
  local ttl = math.ceil(math.ceil(missing) * bucket.interval - (now - bucket.since))
  -- 1e15 ms is longer than Redis needs to keep anything, and still short enough for it.
  ttl = string.format("%.0f", math.max(1, math.min(ttl, 1e15)))
  redis.call("SET", key, string.format("%.17g", bucket.tokens), "PX", ttl)
  redis.call("SET", bucket.refill_key, string.format("%.17g", bucket.since), "PX", ttl)
end

for i = 1, #KEYS / 2 do
  local key = KEYS[2 * i - 1]
  local amount = tonumber(ARGV[3 * i - 1])
  local limit = tonumber(ARGV[3 * i])
  local interval = tonumber(ARGV[3 * i + 1])
  local bucket = buckets[key]
  if not bucket then
    bucket = {
      refill_key = KEYS[2 * i],
      tokens = tonumber(values[2 * i - 1]) or limit,
      since = tonumber(values[2 * i]) or now
    }
    bucket.jumped = now < bucket.since
    buckets[key] = bucket
    order[#order + 1] = key
  end
  bucket.limit = limit
  bucket.interval = interval

  if bucket.tokens > limit then bucket.tokens = limit end
  if now < bucket.since then bucket.since = now end
  local due = math.floor((now - bucket.since) / interval + 1e-9)
  if due > 0 then
    bucket.tokens = math.min(limit, bucket.tokens + due)
    bucket.since = math.ceil((bucket.since + due * interval) * 1024) / 1024
  end
  if bucket.tokens >= limit then bucket.since = now end
  if not bucket.before then bucket.before = bucket.tokens end

  local short = strict and bucket.tokens < amount
  if short then
    enough = false
  else
    bucket.tokens = math.min(limit, bucket.tokens - amount)
  end
  reply[3 * i - 1] = short and 1 or 0
  -- Numbers in answers are cut to integers, texts are not.
  reply[3 * i] = string.format("%.17g", bucket.tokens)
  reply[3 * i + 1] = string.format("%.17g", math.max(0, now - bucket.since))
end

if not enough then reply[1] = 0 end
for _, key in ipairs(order) do
  local bucket = buckets[key]
  if enough then
    keep(key, bucket)
  elseif bucket.jumped then
    -- Else the bucket would get nothing until the clock is where it was.
    bucket.tokens = bucket.before
    keep(key, bucket)
  end
end
return reply
`)

/**
 * KEYS: a sorted set for each group, whose members are places and whose scores the Unix ms at which they are free again.
 * ARGV: the lease in ms, the name of the place, and the limit of each group.
 *
 * Answers 0 if there was a place in each group, or the number of the first one without.
 */
export const enter = script(`
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[1])

for i, key in ipairs(KEYS) do
  redis.call("ZREMRANGEBYSCORE", key, "-inf", now)
  if redis.call("ZCARD", key) >= tonumber(ARGV[i + 2]) then
    for j = 1, i - 1 do redis.call("ZREM", KEYS[j], ARGV[2] .. ":" .. j) end
    return i
  end
  redis.call("ZADD", key, string.format("%.0f", now + lease), ARGV[2] .. ":" .. i)
  if redis.call("PTTL", key) < lease then redis.call("PEXPIRE", key, string.format("%.0f", lease)) end
end
return 0
`)

/**
 * KEYS: as for `enter`. ARGV: the name of the place.
 *
 * Always sent as it is. By its hash it might have to be sent a second time, and who comes next would find the place taken.
 */
export const leave = "for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1] .. ':' .. i) end"
