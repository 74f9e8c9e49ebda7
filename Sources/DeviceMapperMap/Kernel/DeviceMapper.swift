// The only door to libdevmapper. The library keeps global state and is not thread-safe, so every call happens in one
// place, one after the other.

import DiskTypes
import CQblk
import Glibc
import Synchronization

/// Number of a block device.
public struct DeviceNumber: Hashable, Sendable, CustomStringConvertible {
    /// The driver's number.
    public var major: UInt32
    /// The device's number with that driver.
    public var minor: UInt32

    /// A device number by its parts.
    public init(major: UInt32, minor: UInt32) {
        self.major = major
        self.minor = minor
    }
    /// `254:3`, as tables name devices: the kernel resolves a path anew for each target, and slowly.
    public var description: String { "\(major):\(minor)" }
}

/// What the kernel says about a device.
public struct DMDeviceInfo: Equatable, Sendable {
    /// The device's name, as in /dev/mapper.
    public let name: String
    /// Its UUID; empty where it has none.
    public let uuid: String
    /// Its number as a block device.
    public let number: DeviceNumber
    /// How often it is open, mounts and devices above it included.
    public let openCount: Int
    /// Lines of its live table.
    public let targets: Int
    /// Writes are refused.
    public let readOnly: Bool
    /// Requests wait until it is resumed.
    public let suspended: Bool
    /// It has a live table.
    public let hasTable: Bool
    /// It has a table that becomes live with the next resume.
    public let hasStagedTable: Bool
    /// It is removed when its last user closes it.
    public let deferredRemove: Bool
}

/// The kernel's device-mapper.
public final class DeviceMapper: Sendable {
    /// The one instance: the library's state is global.
    public static let shared = DeviceMapper()

    private let turn = Mutex<Void>(())

    private init() {
        DMLog.install()
        // Names and UUIDs are taken as they are; DMNaming lets none through that would need another form.
        _ = dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE)
    }

    /// Runs `body` with the library to itself and says failures in the user's words.
    func alone<Result: Sendable>(
        _ what: String, _ body: () throws(DMFailure) -> Result
    ) throws(ImageError) -> Result {
        do {
            return try attempt(body)
        } catch {
            throw DeviceMapper.error(what, error)
        }
    }

    /// The same with the raw failure, for callers that expect some.
    func attempt<Result: Sendable>(_ body: () throws(DMFailure) -> Result) throws(DMFailure) -> Result {
        try turn.withLock { _ throws(DMFailure) -> Result in try body() }
    }

    static func error(_ what: String, _ failure: DMFailure) -> ImageError {
        let line = "\(what): \(failure.reason)"
        switch failure.errno {
        case EBUSY: return ImageError(.locked, line)
        case ENXIO where !failure.log.contains("/dev/mapper/control"): return ImageError(.notFound, line)
        case EACCES, EPERM: return ImageError(.system, line, advice: "device-mapper needs root")
        default: return ImageError(.system, line)
        }
    }
}
