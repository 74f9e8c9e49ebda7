// The name of a map becomes a folder, a device-mapper name and a word in scripts. What is harmless in all three is
// decided here, once.
public import DiskTypes
import LinuxIO
public import SystemPackage

/// The rules for names of maps.
public enum MapName {
    /// Longest name; device-mapper allows 127 bytes, and its helpers add a suffix.
    public static let lengthLimit = 100

    /// The name a map gets when the user gives none: the image's file name, with `_` for each byte that names
    /// may not hold.
    public static func suggested(forImage path: FilePath) -> String {
        let file = path.lastComponent.map { FilePath(root: nil, components: $0).bytes } ?? []
        var bytes = file.prefix(lengthLimit).map { isAllowed($0) ? $0 : UInt8(ascii: "_") }
        if let first = bytes.first, !isAllowedFirst(first) { bytes[0] = UInt8(ascii: "_") }
        return bytes.isEmpty ? "disk" : String(decoding: bytes, as: UTF8.self)
    }

    /// `name-NUMBER`, within the limit.
    static func numbered(_ name: String, _ number: Int) -> String {
        let suffix = "-\(number)"
        return String(decoding: name.utf8.prefix(lengthLimit - suffix.utf8.count), as: UTF8.self) + suffix
    }

    /// Refuses a name that the user gave and that cannot be one.
    public static func check(_ name: String) throws(ImageError) {
        let rules = "use up to \(lengthLimit) of A-Z a-z 0-9 . _ + -, starting with a letter, a digit or _"
        guard let first = name.utf8.first, isAllowedFirst(first), name.utf8.count <= lengthLimit,
            name.utf8.allSatisfy(isAllowed)
        else { throw ImageError(.reference, "'\(printable(name))' cannot be the name of a map", advice: rules) }
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"): true
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"): true
        case UInt8(ascii: "+"), UInt8(ascii: "-"): true
        default: false
        }
    }
    /// Not a dot (`.`, `..`, hidden folders are the registry's own), not a dash (it would read as an option).
    private static func isAllowedFirst(_ byte: UInt8) -> Bool {
        isAllowed(byte) && byte != UInt8(ascii: ".") && byte != UInt8(ascii: "-") && byte != UInt8(ascii: "+")
    }
}
