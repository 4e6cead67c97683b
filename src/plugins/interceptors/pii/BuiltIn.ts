/** The detectors that are built in: hand-written, each bounded by the longest thing that it looks for. */
import { isIPv6 } from "node:net"
import { atBoundary, type Detector, isDigit, isLetter, isWord, more, none } from "./Detector.ts"

const plus = 43
const dot = 46
const colon = 58
const at_ = 64
const hyphen = 45
const space = 32
const noBreakSpace = 0xA0
const open = 40
const close = 41
const slash = 47

// ---------------------------------------------------------------------------------------------------------------------
// E-mail
// ---------------------------------------------------------------------------------------------------------------------

/** RFC 5321, 4.5.3.1: 64 octets before the `@`, 255 after it. */
const maxLocal = 64
const maxDomain = 255

/** What addresses have before the `@` in practice; RFC 5322 allows more, which is more often the text around one. */
const asciiLocal = Uint8Array.from(
  { length: 128 },
  (_, unit) => isWord(unit) || unit === dot || unit === plus || unit === hyphen || unit === 37 || unit === 39 ? 1 : 0
)

const isLocal = (unit: number): boolean => unit < 128 ? asciiLocal[unit] === 1 : isLetter(unit)

const isLabel = (unit: number): boolean => isDigit(unit) || isLetter(unit) || unit === hyphen

/** The end of the domain that begins at `from`: the longest one whose last label is a top-level domain's. */
const domainEnd = (text: string, from: number, final: boolean): number => {
  const limit = from + maxDomain
  let best = none
  let label = from
  for (;;) {
    let end = label
    while (end < limit && isLabel(text.charCodeAt(end))) end++
    if (end >= text.length && !final && end < limit) return more
    if (end === label) return best
    if (label > from) {
      // A top-level domain has letters alone (`com`), or is a name in Punycode (`xn--p1ai`).
      let letters = label
      while (letters < end && isLetter(text.charCodeAt(letters))) letters++
      const whole = letters === end || (end - label > 4 && text.slice(label, label + 4).toLowerCase() === "xn--")
      if (whole && end - label >= 2) best = end
      else if (letters - label >= 2 && text.charCodeAt(letters) === hyphen) best = letters
    }
    if (end >= limit || text.charCodeAt(end) !== dot) return best
    label = end + 1
  }
}

/** E-mail addresses: `jane.doe+news@mail.example.com`. Not quoted local parts, and no domain without a dot. */
export const email: Detector = {
  kind: "EMAIL",
  noun: "an e-mail address",
  needs: /@/,
  mayBeginWith: isWord,
  beyondAscii: true,
  match: (text, at, final) => {
    if (!isWord(text.charCodeAt(at)) || !atBoundary(text, at)) return none
    const limit = at + maxLocal
    let end = at + 1
    while (end < limit && isLocal(text.charCodeAt(end))) end++
    if (end >= text.length) return final ? none : more
    return text.charCodeAt(end) === at_ ? domainEnd(text, end + 1, final) : none
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Credit cards
// ---------------------------------------------------------------------------------------------------------------------

const minCard = 13
const maxCard = 19

const isCardSeparator = (unit: number): boolean => unit === space || unit === hyphen || unit === noBreakSpace

/** ISO/IEC 7812-1, annex B. */
const passesLuhn = (digits: ReadonlyArray<number>): boolean => {
  let sum = 0
  for (let i = 0; i < digits.length; i++) {
    const digit = digits[digits.length - 1 - i] ?? 0
    const doubled = i % 2 === 1 ? digit * 2 : digit
    sum += doubled > 9 ? doubled - 9 : doubled
  }
  return sum % 10 === 0
}

/**
 * Numbers of payment cards: 13 to 19 digits that pass Luhn's check and begin with 2 to 6, as those of all card schemes do;
 * together, or in groups of which the first has four. One order number of ten passes the check; the first digit makes that
 * one of twenty.
 */
export const creditCard: Detector = {
  kind: "CREDIT_CARD",
  noun: "a credit card number",
  needs: /\d/,
  mayBeginWith: (unit) => unit >= 50 && unit <= 54,
  beyondAscii: false,
  match: (text, at, final) => {
    const first = text.charCodeAt(at)
    if (first < 50 || first > 54 || !atBoundary(text, at)) return none
    const digits: Array<number> = []
    let best = none
    let grouped = false
    let end = at
    for (;;) {
      while (isDigit(text.charCodeAt(end))) {
        if (digits.length === maxCard) return best
        digits.push(text.charCodeAt(end++) - 48)
      }
      if (end >= text.length && !final) return more
      const next = text.charCodeAt(end)
      if (digits.length >= minCard && !isWord(next) && passesLuhn(digits)) best = end
      if (!isCardSeparator(next) || digits.length === maxCard) return best
      if (!grouped && digits.length !== 4) return best
      if (end + 1 >= text.length && !final) return more
      if (!isDigit(text.charCodeAt(end + 1))) return best
      grouped = true
      end++
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// IBAN
// ---------------------------------------------------------------------------------------------------------------------

/** Lengths by country, from the IBAN registry (SWIFT, release 99). */
const ibanLengths: Readonly<Record<string, number>> = {
  AD: 24,
  AE: 23,
  AL: 28,
  AT: 20,
  AZ: 28,
  BA: 20,
  BE: 16,
  BG: 22,
  BH: 22,
  BI: 27,
  BR: 29,
  BY: 28,
  CH: 21,
  CR: 22,
  CY: 28,
  CZ: 24,
  DE: 22,
  DJ: 27,
  DK: 18,
  DO: 28,
  EE: 20,
  EG: 29,
  ES: 24,
  FI: 18,
  FK: 18,
  FO: 18,
  FR: 27,
  GB: 22,
  GE: 22,
  GI: 23,
  GL: 18,
  GR: 27,
  GT: 28,
  HN: 28,
  HR: 21,
  HU: 28,
  IE: 22,
  IL: 23,
  IQ: 23,
  IS: 26,
  IT: 27,
  JO: 30,
  KW: 30,
  KZ: 20,
  LB: 28,
  LC: 32,
  LI: 21,
  LT: 20,
  LU: 20,
  LV: 21,
  LY: 25,
  MC: 27,
  MD: 24,
  ME: 22,
  MK: 19,
  MN: 20,
  MR: 27,
  MT: 31,
  MU: 30,
  NI: 28,
  NL: 18,
  NO: 15,
  OM: 23,
  PK: 24,
  PL: 28,
  PS: 29,
  PT: 25,
  QA: 29,
  RO: 24,
  RS: 22,
  RU: 33,
  SA: 24,
  SC: 31,
  SD: 18,
  SE: 24,
  SI: 19,
  SK: 24,
  SM: 27,
  SO: 23,
  ST: 25,
  SV: 28,
  TL: 23,
  TN: 24,
  TR: 26,
  UA: 29,
  VA: 22,
  VG: 24,
  XK: 20,
  YE: 30
}

const isAsciiLetter = (unit: number): boolean => (unit >= 97 && unit <= 122) || (unit >= 65 && unit <= 90)

/** ISO 13616: the first four characters moved to the end, letters as 10 to 35, the remainder by 97 is 1. */
const passesMod97 = (iban: string): boolean => {
  let remainder = 0
  for (let i = 0; i < iban.length; i++) {
    const unit = iban.charCodeAt((i + 4) % iban.length)
    remainder = isDigit(unit) ? (remainder * 10 + unit - 48) % 97 : (remainder * 100 + (unit & 31) + 9) % 97
  }
  return remainder === 1
}

/** International bank account numbers: of their country's length, with right check digits, in groups of four or together. */
export const iban: Detector = {
  kind: "IBAN",
  noun: "an IBAN",
  needs: /\d/,
  mayBeginWith: isAsciiLetter,
  beyondAscii: false,
  match: (text, at, final) => {
    if (!isAsciiLetter(text.charCodeAt(at)) || !atBoundary(text, at)) return none
    if (at + 2 >= text.length) return final ? none : more
    if (!isDigit(text.charCodeAt(at + 2))) return none
    const length = ibanLengths[text.slice(at, at + 2).toUpperCase()]
    if (length === undefined) return none
    let read = text.slice(at, at + 2)
    let end = at + 2
    while (read.length < length) {
      const unit = text.charCodeAt(end)
      if (end >= text.length) return final ? none : more
      if (unit === space || unit === noBreakSpace) {
        if (read.length % 4 !== 0 || text.charCodeAt(end - 1) === unit) return none
      } else if (isDigit(unit) || (read.length >= 4 && isAsciiLetter(unit))) read += text.charAt(end)
      else return none
      end++
    }
    if (end >= text.length && !final) return more
    return isWord(text.charCodeAt(end)) || !passesMod97(read) ? none : end
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// IP addresses
// ---------------------------------------------------------------------------------------------------------------------

const isHex = (unit: number): boolean => isDigit(unit) || (unit >= 97 && unit <= 102) || (unit >= 65 && unit <= 70)

/** The longest way of writing an IPv6 address, with an IPv4 address at its end. */
const maxIp = 45

const ipv4End = (text: string, at: number, final: boolean): number => {
  let end = at
  for (let octet = 0; octet < 4; octet++) {
    const from = end
    while (end - from < 4 && isDigit(text.charCodeAt(end))) end++
    if (end >= text.length && !final && end - from < 4) return more
    const digits = end - from
    if (digits === 0 || digits > 3 || (digits > 1 && text.charCodeAt(from) === 48)) return none
    if (Number(text.slice(from, end)) > 255) return none
    if (octet === 3) break
    if (text.charCodeAt(end) !== dot) return none
    end++
  }
  if (isWord(text.charCodeAt(end))) return none
  // Five numbers are a version.
  if (text.charCodeAt(end) === dot) {
    if (end + 1 >= text.length && !final) return more
    if (isDigit(text.charCodeAt(end + 1))) return none
  }
  return end
}

const ipv6End = (text: string, at: number, final: boolean): number => {
  const limit = at + maxIp + 1
  let end = at
  let colons = 0
  let digits = false
  for (; end < limit; end++) {
    const unit = text.charCodeAt(end)
    if (unit === colon) colons++
    else if (isDigit(unit)) digits = true
    else if (!isHex(unit) && unit !== dot) break
    // What has no colon after four digits is a word or a number.
    if (colons === 0 && end - at > 4) return none
  }
  if (end >= text.length && !final && end < limit) return more
  // `a::b` is more often a name in a program than an address.
  if (colons < 2 || !digits || end === limit || isWord(text.charCodeAt(end))) return none
  while (text.charCodeAt(end - 1) === dot) end--
  if (text.charCodeAt(end - 1) === colon && text.charCodeAt(end - 2) !== colon) end--
  return isIPv6(text.slice(at, end)) ? end : none
}

/** IPv4 and IPv6 addresses. Four numbers from 0 to 255 that are a version are found as well, `v1.2.3.4` is not. */
export const ip: Detector = {
  kind: "IP",
  noun: "an IP address",
  needs: /\d/,
  mayBeginWith: (unit) => isHex(unit) || unit === colon,
  beyondAscii: false,
  match: (text, at, final) => {
    const unit = text.charCodeAt(at)
    if (!atBoundary(text, at)) return none
    const before = at === 0 ? NaN : text.charCodeAt(at - 1)
    if (isDigit(unit) && before !== dot) {
      const end = ipv4End(text, at, final)
      if (end !== none) return end
    }
    // What follows a colon is the rest of something longer, unless the colon follows a word: `host:fe80::1`.
    const within = before === colon && at > 1 && (isHex(text.charCodeAt(at - 2)) || text.charCodeAt(at - 2) === colon)
    return within ? none : ipv6End(text, at, final)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Phone numbers
// ---------------------------------------------------------------------------------------------------------------------

/** The longest way of writing a phone number that is read. */
const maxPhone = 40
/** E.164. */
const maxDigits = 15

const isPhoneSeparator = (unit: number): boolean =>
  unit === space || unit === hyphen || unit === dot || unit === slash || unit === open || unit === close ||
  unit === noBreakSpace

interface Group {
  readonly digits: string
  /** What stands before it. */
  readonly separator: string
}

/** Groups in which a number goes on in the manner of a form, or `undefined` where they are not of that form. */
type Form = (groups: ReadonlyArray<Group>) => "whole" | "begun" | undefined

const total = (groups: ReadonlyArray<Group>): number => groups.reduce((sum, { digits }) => sum + digits.length, 0)

const plainSeparator = /^(?: ?[-/. ] ?|\u00a0|\) ?|\)[-/]| ?\(|-\()$/

/** `+49 30 1234567`, `+1 (555) 123-4567`; `prefix` is what stands before the country's digits. */
const international = (prefix: string): Form => (groups) => {
  const [first] = groups
  if (first === undefined || !first.digits.startsWith(prefix)) return undefined
  const country = first.digits.slice(prefix.length)
  if (country.startsWith("0")) return undefined
  for (const [index, { digits, separator }] of groups.entries()) {
    if (index > 0 && !plainSeparator.test(separator)) return undefined
    // A single digit behind the area's is a count, not a part of the number; `(0)` is the trunk prefix.
    if (index > 2 && digits.length < 2) return undefined
  }
  // The trunk prefix in `+49 (0)30 …` is not dialled.
  const trunk = groups[1]?.digits.startsWith("0") === true && groups[1].separator.endsWith("(") ? 1 : 0
  const count = total(groups) - prefix.length - trunk
  const north = (country === "" ? groups[1]?.digits : country)?.startsWith("1") === true
  const most = north ? 11 : maxDigits
  if (count > most) return undefined
  // Written without a break, `00…` is as likely an order number.
  if (prefix !== "" && groups.length === 1) return "begun"
  return count >= (north ? 11 : 8) ? "whole" : "begun"
}

/** `(555) 123-4567`, `555-123-4567`, `1-555-123-4567`: North America, three, three and four digits. */
const northAmerican: Form = (groups) => {
  const rest = groups[0]?.digits === "1" ? groups.slice(1) : groups
  const [area, exchange, line] = rest
  if (rest.length > 3 || groups.length === 0) return undefined
  if (area === undefined) return "begun"
  if (area.digits.length !== 3 || !/^[2-9]/.test(area.digits)) return undefined
  if (rest !== groups && !/^(?:[-. ]| ?\()$/.test(area.separator)) return undefined
  if (exchange === undefined) return "begun"
  if (exchange.digits.length !== 3 || exchange.digits.startsWith("0")) return undefined
  const inBrackets = exchange.separator.startsWith(")")
  if (!(inBrackets ? /^\)[- ]?$/ : /^[-. ]$/).test(exchange.separator)) return undefined
  if (line === undefined) return "begun"
  if (line.digits.length !== 4) return undefined
  if (inBrackets ? !/^[-. ]$/.test(line.separator) : line.separator !== exchange.separator) return undefined
  return "whole"
}

/** `030 1234567`, `0170/1234567`, `020 7946 0958`, `01 23 45 67 89`: most of the world, with the trunk prefix 0. */
const trunk: Form = (groups) => {
  const [area, ...rest] = groups
  if (area === undefined || !/^0[1-9]\d{0,3}$/.test(area.digits)) return undefined
  const [second] = rest
  if (second === undefined) return "begun"
  const count = total(groups)
  if (area.digits.length === 2 && second.digits.length === 2) {
    // Pairs: five of them, since three are a date.
    const like = rest.every(({ digits, separator }) => digits.length === 2 && separator === second.separator)
    if (!like || rest.length > 4 || !/^[-. \u00a0]$/.test(second.separator)) return undefined
    return rest.length === 4 ? "whole" : "begun"
  }
  if (!/^(?:[-/ \u00a0]| [-/] |\) ?|\)[-/])$/.test(second.separator)) return undefined
  if (area.digits.length === 2 && second.digits.length < 3) return undefined
  for (const { digits, separator } of rest) {
    if (digits.length < 2) return undefined
    if (rest[1] !== undefined && separator !== second.separator && separator !== rest[1].separator) return undefined
    if (separator !== second.separator && !/^[- \u00a0]$/.test(separator)) return undefined
  }
  if (count > 12) return undefined
  return count >= 9 ? "whole" : "begun"
}

/**
 * Phone numbers as people write them: international ones, and national ones whose grouping shows what they are. Digits in
 * one piece without a `+` are left alone, since order numbers look the same.
 */
export const phone: Detector = {
  kind: "PHONE",
  noun: "a phone number",
  needs: /\d/,
  mayBeginWith: (unit) => isDigit(unit) || unit === plus || unit === open,
  beyondAscii: false,
  match: (text, at, final) => {
    const first = text.charCodeAt(at)
    const before = at === 0 ? NaN : text.charCodeAt(at - 1)
    if (isWord(before) || before === plus) return none
    // The end of a longer number with separators.
    if ((before === hyphen || before === dot || before === slash) && at > 1 && isWord(text.charCodeAt(at - 2))) {
      return none
    }
    let end = at
    const bracketed = first === open
    if (bracketed || first === plus) end++
    if (end >= text.length) return final ? none : more
    const lead = text.charCodeAt(end)
    if (!isDigit(lead)) return none
    const forms: ReadonlyArray<Form> = first === plus
      ? [international("")]
      : lead === 48
      ? [trunk, international("00")]
      : [northAmerican]
    const limit = at + maxPhone
    const groups: Array<Group> = []
    let separator = ""
    let best = none
    for (;;) {
      const from = end
      while (end < limit && isDigit(text.charCodeAt(end)) && end - from <= maxDigits) end++
      if (end === limit || end - from > maxDigits) return best
      if (end >= text.length && !final) return more
      const next = text.charCodeAt(end)
      groups.push({ digits: text.slice(from, end), separator })
      const states = forms.map((form) => form(groups))
      if (states.every((state) => state === undefined)) return best
      const goesOn = separatorEnd(text, end, final)
      if (goesOn === more) return more
      // `555-123-4567-89` is a serial number; after a space another number may follow.
      const tight = goesOn > end && next !== space && next !== noBreakSpace && next !== open
      if (states.includes("whole") && !isWord(next) && next !== at_ && (!tight || first === plus)) best = end
      if (goesOn === none) return best
      if (bracketed && groups.length === 1 && next !== close) return none
      separator = text.slice(end, goesOn)
      end = goesOn
    }
  }
}

/** Where the digits behind a separator begin, `none` where none do. */
const separatorEnd = (text: string, at: number, final: boolean): number => {
  let end = at
  while (end - at < 3 && isPhoneSeparator(text.charCodeAt(end))) end++
  if (end >= text.length && !final && end - at < 3) return more
  if (end === at) return none
  if (end >= text.length && !final) return more
  return isDigit(text.charCodeAt(end)) ? end : none
}
