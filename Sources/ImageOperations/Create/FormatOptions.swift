// `-o` is a language of its own: lists with commas inside names, switches without a value, sizes with suffixes.
// Scripts write it for qemu-img, so it means here what it means there.

public import DiskTypes
public import ImageChain
public import QCOW2
import LinuxIO
import SystemPackage

/// The options of a new image's format, as `-o` gives them.
public struct FormatOptions: Sendable {
    /// What the qcow2 image is like. Of a raw one only the preallocation counts.
    public var image = NewImageOptions()
    /// `size=`.
    public var size: UInt64?
    /// What was given, in the words it was given in: the summary repeats them.
    var given: [String: String] = [:]

    /// The lists of any number of `-o`; a later value of a name replaces an earlier one.
    public init(_ lists: [String], for format: ImageFormat) throws(ImageError) {
        for list in lists {
            guard Self.isList(list) else {
                throw .unsupported("invalid option list '\(printable(list))'", advice: "write NAME=VALUE,...")
            }
            for option in Self.split(list) { try take(option, format) }
        }
    }

    /// The format's defaults.
    public init() {}

    /// Whether a list asks what there is.
    public static func asksForHelp(_ lists: [String]) -> Bool {
        lists.allSatisfy(isList) && lists.contains { split($0).contains { $0 == "help" || $0 == "?" } }
    }

    /// What `-o help` prints.
    public static func help(_ format: ImageFormat) -> String {
        let rows = format == .raw ? names.filter { rawNames.contains($0.name) } : names
        return "Supported options:\n"
            + rows.map { row in
                let left = "  \(row.name)=<\(row.kind)>"
                return left + String(repeating: " ", count: max(1, 25 - left.count)) + "- \(row.what)\n"
            }.joined()
    }

    private static let rawNames: Set<String> = ["preallocation", "size"]
    private static let names: [(name: String, kind: String, what: String)] = [
        ("backing_file", "str", "File name of a base image"),
        ("backing_fmt", "str", "Image format of the base image"),
        ("cluster_size", "size", "Cluster size, 512 to 2M"),
        ("compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"),
        ("compression_type", "str", "How clusters are compressed (zlib, zstd)"),
        ("data_file", "str", "File name of an external data file"),
        ("data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"),
        ("extended_l2", "bool (on/off)", "Extended L2 tables"),
        ("lazy_refcounts", "bool (on/off)", "Postpone refcount updates"),
        ("preallocation", "str", "Preallocation mode (off, metadata, falloc, full)"),
        ("refcount_bits", "num", "Width of a reference count entry in bits"),
        ("size", "size", "Virtual disk size"),
    ]

    /// Whether a list is one as qemu-img takes it: no option in it is empty or begins with a comma, none is missing at its end.
    private static func isList(_ list: String) -> Bool {
        var isStart = true
        var rest = list[...]
        while let character = rest.popFirst() {
            if character != "," {
                isStart = false
            } else if isStart {
                return false
            } else if rest.first == "," {
                rest.removeFirst()
            } else {
                isStart = true
            }
        }
        return !isStart
    }

    /// At commas, but not at doubled ones, which stand for one.
    static func split(_ list: String) -> [String] {
        // By scalars: a combining character after a comma would make another Character of it.
        var parts: [String] = []
        var part = String.UnicodeScalarView()
        var afterComma = false
        for scalar in list.unicodeScalars {
            if scalar == "," {
                if afterComma { part.append(",") }
                afterComma.toggle()
                continue
            }
            if afterComma {
                parts.append(String(part))
                part = String.UnicodeScalarView()
                afterComma = false
            }
            part.append(scalar)
        }
        parts.append(String(part))
        return parts.filter { !$0.isEmpty }
    }

    private mutating func take(_ option: String, _ format: ImageFormat) throws(ImageError) {
        let equals = option.unicodeScalars.firstIndex(of: "=") ?? option.endIndex
        let name = String(option.unicodeScalars[..<equals])
        if equals == option.endIndex, Self.names.contains(where: { "no\($0.name)" == name }) {
            return try take("\(name.dropFirst(2))=off", format)
        }
        guard Self.names.contains(where: { $0.name == name }), format == .qcow2 || Self.rawNames.contains(name) else {
            throw .unsupported("there is no option '\(printable(name))' for \(format.rawValue)", advice: "see -o help")
        }
        // A name alone switches on.
        try set(name, equals == option.endIndex ? "on" : String(option.unicodeScalars[equals...].dropFirst()))
    }

    /// `-b` and `-F`, which say the same as backing_file and backing_fmt.
    public mutating func setBacking(_ name: String?, format: String?) throws(ImageError) {
        if let name { try set("backing_file", name) }
        if let format { try set("backing_fmt", format) }
    }

    private mutating func set(_ name: String, _ value: String) throws(ImageError) {
        // Nothing is never meant: it is what an unset variable of a script leaves.
        guard !value.isEmpty else {
            throw .unsupported("'\(name)' is given an empty value", advice: "leave the option out if none is meant")
        }
        given[name] = value
        switch name {
        case "backing_file": image.backingName = FileName(argument: value)
        case "backing_fmt": image.backingFormat = value
        case "cluster_size": image.clusterSize = try Self.bytes(name, value)
        case "compat":
            guard let version = ["0.10": 2, "v2": 2, "1.1": 3, "v3": 3][value] else { throw Self.bad(name, value) }
            image.version = UInt32(version)
        case "compression_type":
            guard let method = [CompressionMethod.deflate, .zstd].first(where: { $0.name == value }) else {
                throw Self.bad(name, value)
            }
            image.compression = method
        case "data_file": image.dataFile = FileName(argument: value)
        case "data_file_raw": image.dataFileIsRaw = try Self.flag(name, value)
        case "extended_l2": image.extendedL2 = try Self.flag(name, value)
        case "lazy_refcounts": image.lazyRefcounts = try Self.flag(name, value)
        case "preallocation":
            guard let mode = PreallocationMode(rawValue: value) else { throw Self.bad(name, value) }
            image.preallocation = mode
        case "refcount_bits":
            guard let bits = UInt64(value) else { throw Self.bad(name, value) }
            image.refcountBits = bits
        default: size = try Self.bytes(name, value)
        }
    }

    private static func bytes(_ name: String, _ value: String) throws(ImageError) -> UInt64 {
        guard let bytes = ByteSize.parse(value) else { throw bad(name, value) }
        return bytes
    }

    private static func flag(_ name: String, _ value: String) throws(ImageError) -> Bool {
        switch value {
        case "on", "yes", "true", "y": return true
        case "off", "no", "false", "n": return false
        default: throw .unsupported("option '\(name)' takes 'on' or 'off'")
        }
    }

    private static func bad(_ name: String, _ value: String) -> ImageError {
        .unsupported("option '\(name)' does not take '\(printable(value))'", advice: "see -o help")
    }

    /// `Formatting 'disk.qcow2', fmt=qcow2 ...`: qemu-img's line, in its order.
    func summary(_ path: FilePath, _ format: ImageFormat, size: UInt64) -> String {
        var words = ["fmt=\(format.rawValue)"]
        func add(_ name: String, _ value: String?) {
            if let value { words.append("\(name)=\(value.replacing(",", with: ",,"))") }
        }
        func added(_ name: String, flag: Bool) { add(name, given[name] == nil ? nil : flag ? "on" : "off") }
        if format == .raw {
            add("size", String(size))
            add("preallocation", given["preallocation"])
        } else {
            add("cluster_size", String(image.clusterSize))
            add("extended_l2", image.extendedL2 ? "on" : "off")
            add("preallocation", given["preallocation"])
            add("compression_type", image.compression.name)
            add("size", String(size))
            add("compat", given["compat"])
            add("backing_file", image.backingName?.description)
            add("backing_fmt", image.backingFormat)
            add("data_file", image.dataFile?.description)
            added("data_file_raw", flag: image.dataFileIsRaw)
            add("lazy_refcounts", image.lazyRefcounts ? "on" : "off")
            add("refcount_bits", String(image.refcountBits))
        }
        return "Formatting '\(path)', " + words.joined(separator: " ")
    }
}
