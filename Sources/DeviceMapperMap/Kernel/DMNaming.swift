// The names by which qblk finds its own devices again after a crash, and which names it may give at all.

public import DiskTypes
import Glibc

/// Names of one map's devices. Every UUID begins with `QBLK-`, as device-mapper's convention asks of a subsystem.
public struct DMNaming: Equatable, Sendable {
    /// How the UUIDs of all of qblk's devices begin.
    public static let uuidPrefix = "QBLK-"
    private static let zerosSuffix = "-zero"

    /// The device the user asked for.
    public let name: String
    /// The UUID of the device that the user asked for.
    public let uuid: String
    /// The device that reads as zeros, below it. Named by the map's id: `name` may be as long as names get.
    public var zerosName: String { "qblk-zero-\(uuid.dropFirst(DMNaming.uuidPrefix.count))" }
    /// The UUID of the device that reads as zeros.
    public var zerosUUID: String { uuid + DMNaming.zerosSuffix }

    /// Names for a new map.
    public init(name: String) throws(ImageError) {
        try DMNaming.check(name)
        self.name = name
        var random = SystemRandomNumberGenerator()
        uuid = DMNaming.uuidPrefix + (0..<2).map { _ in DMNaming.hex16(random.next()) }.joined()
    }

    /// Names of a map known from its record.
    public init(name: String, uuid: String) {
        self.name = name
        self.uuid = uuid
    }

    /// The UUID of the map to which an internal device belongs; nil for a map's own device.
    public static func owner(ofInternal uuid: String) -> String? {
        uuid.hasSuffix(zerosSuffix) ? String(uuid.dropLast(zerosSuffix.count)) : nil
    }

    /// Refuses names that device-mapper, its tools or /dev/mapper would change or misread.
    public static func check(_ name: String) throws(ImageError) {
        let plain = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
                UInt8(ascii: "A")...UInt8(ascii: "Z"):
                true
            default: "#+-.:=@_".utf8.contains(byte)
            }
        }
        guard plain, !name.isEmpty, name != ".", name != "..", name != "control" else {
            throw .unsupported(
                "'\(name)' cannot name a device-mapper device",
                advice: "use letters, digits and any of #+-.:=@_ (--name)")
        }
        guard name.utf8.count <= DMLimits.maxNameBytes else {
            throw .unsupported("'\(name)' is longer than \(DMLimits.maxNameBytes) bytes", advice: "use --name")
        }
    }

    private static func hex16(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
