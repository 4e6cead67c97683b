/** The command `keys`: what scripts get on standard output, and what people are told. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { type Cause, Effect, Exit, Layer, Option, Redacted, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { TestConsole } from "effect/testing"
import * as KeysCommand from "../../src/config/KeysCommand.ts"
import * as KeysSql from "../../src/modules/identity/KeysSql.ts"
import * as Sql from "../../src/modules/sql/Sql.ts"
import { Identity, Keys, PresentedSecret } from "../../src/sdk/Identity.ts"
import { IssuedKeyJson, KeyJson, KeyListJson } from "../../src/sdk/KeyJson.ts"

const strictly = { onExcessProperty: "error" } as const
const decodeIssued = Schema.decodeUnknownSync(Schema.fromJsonString(IssuedKeyJson), strictly)
const decodeKey = Schema.decodeUnknownSync(Schema.fromJsonString(KeyJson), strictly)
const decodeList = Schema.decodeUnknownSync(Schema.fromJsonString(KeyListJson), strictly)

const layer = KeysSql.layer().pipe(
  Layer.provide(Sql.migrate(KeysSql.migrations)),
  Layer.provide(Sql.layer(Redacted.make("sqlite::memory:"))),
  Layer.provideMerge(NodeServices.layer)
)

interface Ran {
  readonly out: ReadonlyArray<unknown>
  readonly err: ReadonlyArray<unknown>
  readonly exit: Exit.Exit<void, unknown>
}

/** Runs the command as the command line would, against the keys of the test. */
const run = Effect.fnUntraced(function*(...args: ReadonlyArray<string>) {
  const keys = yield* Keys
  const config = Flag.File("config").pipe(Flag.withAlias("c"), Flag.optional)
  const command = Command.make("llm-gateway").pipe(
    Command.withSubcommands([
      KeysCommand.make(config, (file) => Layer.succeed(Keys, Option.isNone(file) ? keys : Keys.of(keys)))
    ])
  )
  const before = [(yield* TestConsole.logLines).length, (yield* TestConsole.errorLines).length] as const
  const exit = yield* Effect.exit(Command.runWith(command, { version: "1" })(["keys", ...args]))
  const ran: Ran = {
    out: (yield* TestConsole.logLines).slice(before[0]),
    err: (yield* TestConsole.errorLines).slice(before[1]),
    exit
  }
  return ran
})

const authenticate = (secret: string) =>
  Effect.flatMap(Identity, (identity) => identity.authenticate(new PresentedSecret(secret)))

const told = ({ err, exit, out }: Ran): string =>
  [...out, ...err, Exit.isFailure(exit) ? String((exit.cause satisfies Cause.Cause<unknown>).reasons.map(String)) : ""]
    .join("\n")

describe("llm-gateway keys", () => {
  it.effect("create prints the secret and nothing else on standard output", () =>
    Effect.gen(function*() {
      const { err, exit, out } = yield* run("create", "--tenant", "acme", "--name", "backend")
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(out.length, 1)
      assert.strictEqual((yield* authenticate(String(out[0]))).tenant, "acme")
      assert.include(err.join("\n"), "shown this once")
      assert.notInclude(err.join("\n"), String(out[0]))
    }).pipe(Effect.provide(layer)))

  it.effect("create takes all that a key can have, and --json gives it back as the admin API does", () =>
    Effect.gen(function*() {
      const flags = "--json --tenant acme --id k1 --user ada --tag a --tag b --model openai::* --model x::y --admin"
      const { out } = yield* run(
        "create",
        ...flags.split(" "),
        "--expires",
        "2099-01-01",
        "--rate-limit",
        "{\"per\":\"key\",\"requests\":60,\"window\":\"1m\"}",
        "--budget",
        "{\"per\":\"key\",\"usd\":2.5,\"window\":\"day\"}"
      )
      assert.strictEqual(out.length, 1)
      const { key, secret } = decodeIssued(out[0])
      assert.deepStrictEqual(yield* authenticate(secret), {
        tenant: "acme",
        keyId: "k1",
        user: "ada",
        tags: ["a", "b"],
        admin: true,
        restrictions: {
          models: ["openai::*", "x::y"],
          rateLimits: [{ kind: "requests", per: "key", limit: 60, windowMs: 60_000 }],
          budgets: [{ per: "key", limitNanoUsd: 2_500_000_000, window: "day" }]
        }
      })
      assert.strictEqual(key.expiresAt, 4_070_908_800_000)
    }).pipe(Effect.provide(layer)))

  it.effect("list, rotate and revoke work on what create made", () =>
    Effect.gen(function*() {
      const first = decodeIssued((yield* run("create", "--tenant", "acme", "--id", "k1", "--json")).out[0])
      yield* run("create", "--tenant", "other", "--id", "k2")
      const listed = decodeList((yield* run("list", "--json")).out[0])
      assert.deepStrictEqual(listed.keys.map(({ id }) => id), ["k1", "k2"])
      assert.deepStrictEqual((yield* run("list", "--tenant", "other")).out, ["k2\tother\t-\t-\tstore\tgood\t"])

      const rotated = yield* run("rotate", "k1", "--grace", "1h")
      yield* authenticate(first.secret)
      yield* authenticate(String(rotated.out[0]))
      const again = decodeIssued((yield* run("rotate", "k1", "--json")).out[0])
      yield* Effect.flip(authenticate(first.secret))

      assert.deepStrictEqual((yield* run("revoke", "k1")).out, ["key k1 is revoked"])
      yield* Effect.flip(authenticate(again.secret))
      assert.isDefined(decodeKey((yield* run("revoke", "k1", "--json")).out[0]).revokedAt)
      assert.include(String((yield* run("list")).out[0]), "\trevoked ")
    }).pipe(Effect.provide(layer)))

  it.effect("lists more keys than fit on a page", () =>
    Effect.gen(function*() {
      const keys = yield* Keys
      yield* Effect.forEach(Array.from({ length: 1001 }, (_, at) => `k${String(at).padStart(4, "0")}`), (id) =>
        keys.create({ id, tenant: "acme", tags: [], admin: false, restrictions: { rateLimits: [], budgets: [] } }))
      assert.strictEqual((yield* run("list")).out.length, 1001)
    }).pipe(Effect.provide(layer)))

  it.effect("says what is wrong, fails, and prints no secret", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [args: ReadonlyArray<string>, message: string]> = [
        [["create"], "tenant"],
        [["create", "--tenant", ""], "validation_error: tenant"],
        [["create", "--tenant", "a", "--id", "a b"], "validation_error: id"],
        [["create", "--tenant", "a", "--expires", "soon"], "validation_error: expires_at"],
        [["create", "--tenant", "a", "--rate-limit", "60/m"], "validation_error: rate-limit: expected JSON"],
        [
          ["create", "--tenant", "a", "--rate-limit", "{\"per\":\"key\",\"requests\":-1,\"window\":\"1m\"}"],
          "validation_error: rate_limits[0].requests"
        ],
        [["create", "--tenant", "a", "--budget", "{\"per\":\"key\",\"usd\":-1,\"window\":\"day\"}"], "budgets[0].usd"],
        [["revoke", "nothing"], "not_found"],
        [["rotate", "nothing"], "not_found"],
        [["rotate", "nothing", "--grace", "a while"], "validation_error: grace"]
      ]
      for (const [args, message] of wrong) {
        const ran = yield* run(...args)
        assert.isTrue(Exit.isFailure(ran.exit), args.join(" "))
        assert.include(told(ran), message, args.join(" "))
        assert.notMatch(told(ran), /lg_[A-Za-z0-9_-]{43}/)
      }
    }).pipe(Effect.provide(layer)))
})
