/** The budgets that hold for the caller, and how they stand. */
import { Effect, Schema } from "effect"
import type { Balance } from "../../sdk/Budgets.ts"
import { type BudgetInfo, BudgetList } from "../../sdk/GatewayApi.ts"
import type { GatewayError } from "../../sdk/GatewayError.ts"
import { usd } from "../../sdk/Pricing.ts"
import { type Door, json, visit } from "../Door.ts"

const encodeBudgets = Schema.encodeSync(BudgetList)

const budgetInfo = ({ account, reservedNanoUsd, spentNanoUsd }: Balance): BudgetInfo => ({
  name: account.name,
  key: account.key,
  limitUsd: usd(account.limitNanoUsd),
  spentUsd: usd(spentNanoUsd),
  reservedUsd: usd(reservedNanoUsd),
  // A limit that was lowered since may be below what was spent.
  remainingUsd: usd(Math.max(0, account.limitNanoUsd - spentNanoUsd - reservedNanoUsd)),
  ...(account.resetsAt === undefined ? {} : { resetsAt: new Date(account.resetsAt).toISOString() })
})

/** Lists budgets; `balances` gives those of the current caller. */
export const list = <R>(door: Door, balances: Effect.Effect<ReadonlyArray<Balance>, GatewayError, R>) =>
  visit(
    door,
    Effect.fnUntraced(function*({ requestId }) {
      const budgets = (yield* balances).map(budgetInfo)
      return json(encodeBudgets({ budgets }), { "x-request-id": requestId })
    })
  )
