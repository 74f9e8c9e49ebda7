// Sizes as people write and read them. Scripts compare this text with qemu-img's, so it follows qemu-img's rounding
// and its suffixes to the letter.

import Glibc

/// Sizes in bytes, as text.
public enum ByteSize {
    /// `1.27 MiB`, as qemu-img prints sizes: three significant digits, the unit switching at 1000.
    public static func text(_ bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var exponent: Int32 = 0
        _ = unsafe frexp(Double(bytes) / (1000.0 / 1024.0), &exponent)
        let unit = max(0, min(units.count - 1, Int(exponent - 1) / 10))
        let value = Double(bytes) / Double(UInt64(1) << UInt64(unit * 10))
        return format("%0.3g", value) + " " + units[unit]
    }

    /// `4k`, `1.5G`, `4096`, `1024.0`, `0x1000`: a number, with one of the suffixes b, k, M, G, T, P, E (powers of 1024)
    /// unless it is hexadecimal, as QEMU reads it: blanks and a plus sign may stand before it, a fraction must have a
    /// suffix larger than b. nil: not a size.
    public static func parse(_ text: String) -> UInt64? {
        var number = text.drop { $0.isASCII && $0.isWhitespace }
        if number.first == "+" { number.removeFirst() }
        if number.hasPrefix("0x") || number.hasPrefix("0X") {
            let digits = number.dropFirst(2)
            return digits.allSatisfy { $0.isASCII && $0.isHexDigit } ? UInt64(digits, radix: 16) : nil
        }
        guard let last = number.last else { return nil }
        let exponents: [String: UInt64] = ["b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60]
        let suffix = exponents[last.lowercased()]
        if suffix != nil { number.removeLast() }
        return bytes(number, exponent: suffix ?? 0)
    }

    /// A decimal number times 2^`exponent`, the rest cut off.
    private static func bytes(_ number: Substring, exponent: UInt64) -> UInt64? {
        let parts = number.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        let fraction = parts.count > 1 ? parts[1] : ""
        guard number.contains(where: { $0 != "." }), parts.allSatisfy({ $0.allSatisfy { ("0"..."9").contains($0) } }),
            let whole = parts[0].isEmpty ? 0 : UInt64(parts[0])
        else { return nil }
        let (bytes, overflow) = whole.multipliedReportingOverflow(by: 1 << exponent)
        guard !overflow else { return nil }
        if fraction.allSatisfy({ $0 == "0" }) { return bytes }
        guard exponent > 0, let part = Double("0.\(fraction)") else { return nil }
        let (sum, tooMuch) = bytes.addingReportingOverflow(
            UInt64((part * Double(UInt64(1) << exponent)).rounded(.down)))
        return tooMuch ? nil : sum
    }

    /// One number through C's printf: what qemu-img prints with, rounding included.
    static func format(_ format: String, _ values: any CVarArg...) -> String {
        unsafe withVaList(values) { list in
            var buffer = [CChar](repeating: 0, count: 256)
            let count = unsafe vsnprintf(&buffer, buffer.count, format, list)
            return String(
                decoding: buffer[..<max(0, min(Int(count), 255))].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }
}
