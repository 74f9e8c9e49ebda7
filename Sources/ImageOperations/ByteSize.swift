// Why this file exists: sizes as people write and read them. Scripts compare this text with qemu-img's, so it follows
// qemu-img's rounding and its suffixes to the letter.

import Glibc

/// Sizes in bytes, as text.
public enum ByteSize {
    /// `1.27 MiB`, as qemu-img prints sizes: three significant digits, the unit switching at 1000.
    public static func text(_ bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var exponent: Int32 = 0
        _ = frexp(Double(bytes) / (1000.0 / 1024.0), &exponent)
        let unit = max(0, min(units.count - 1, Int(exponent - 1) / 10))
        let value = Double(bytes) / Double(UInt64(1) << UInt64(unit * 10))
        return format("%0.3g", value) + " " + units[unit]
    }

    /// `4k`, `1.5G`, `4096`: a number with one of the suffixes b, k, M, G, T, P, E (powers of 1024). nil: not a size.
    public static func parse(_ text: String) -> UInt64? {
        guard let last = text.last else { return nil }
        let exponent: UInt64
        switch last {
        case "b", "B": exponent = 0
        case "k", "K": exponent = 10
        case "m", "M": exponent = 20
        case "g", "G": exponent = 30
        case "t", "T": exponent = 40
        case "p", "P": exponent = 50
        case "e", "E": exponent = 60
        default:
            return text.hasPrefix("0x") ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
        }
        let number = text.dropLast()
        guard number.allSatisfy({ $0.isASCII && ($0.isNumber || $0 == ".") }), number.first?.isNumber == true else {
            return nil
        }
        if let whole = UInt64(number) {
            let (bytes, overflow) = whole.multipliedReportingOverflow(by: 1 << exponent)
            return overflow ? nil : bytes
        }
        guard let fraction = Double(number) else { return nil }
        return UInt64(exactly: (fraction * Double(UInt64(1) << exponent)).rounded(.down))
    }

    /// One number through C's printf: what qemu-img prints with, rounding included.
    static func format(_ format: String, _ values: any CVarArg...) -> String {
        withVaList(values) { list in
            var buffer = [CChar](repeating: 0, count: 256)
            let count = vsnprintf(&buffer, buffer.count, format, list)
            return String(
                decoding: buffer[..<max(0, min(Int(count), 255))].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }
}
