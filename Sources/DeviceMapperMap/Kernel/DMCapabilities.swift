// `qblk doctor` says whether this machine can map through device-mapper, and what to do if not.

import DiskTypes
import LinuxIO

/// What this machine has for device-mapper maps.
public struct DMCapabilities: Sendable {
    /// Driver, library and targets; nil where there is no device-mapper.
    public let capability: DMCapability?
    /// Why there is none.
    public let reason: String?
    /// libdevmapper's version, known even without a kernel side.
    public let library: String
    /// Loop devices can be made: /dev/loop-control is there.
    public let hasLoop: Bool
    /// Udev runs and answers: it makes the nodes, and maps wait for it.
    public let hasUdev: Bool
    /// Names of the devices that are qblk's.
    public let devices: [String]

    /// Looks at the machine. Changes nothing, but the kernel may load modules that are asked about.
    public init() {
        library = DeviceMapper.shared.libraryVersion
        hasUdev = DMUdev.isPresent
        hasLoop = Filesystem.exists("/dev/loop-control")
        do throws(ImageError) {
            capability = try DeviceMapper.shared.capability()
            reason = nil
        } catch {
            capability = nil
            reason = error.description
        }
        let ours = try? DeviceMapper.shared.devices(uuidPrefix: DMNaming.uuidPrefix)
        devices = (ours ?? []).map(\.name).sorted()
    }

    /// The targets that a read-only map may need and this kernel lacks.
    public var missingTargets: [String] {
        guard let capability else { return DeviceMapper.neededTargets }
        return DeviceMapper.neededTargets.filter { capability.targets[$0] == nil }
    }

    /// `map --via dm -r` works here.
    public var canMap: Bool { capability != nil && hasLoop && missingTargets.isEmpty }

    /// What would make it work, in one line; nil where it works.
    public var advice: String? {
        guard capability != nil else {
            return "load device-mapper (modprobe dm-mod) as root, or use a kernel that has it"
        }
        guard hasLoop else { return "load loop devices (modprobe loop)" }
        guard !missingTargets.isEmpty else { return nil }
        return "load the targets: " + missingTargets.map { "modprobe dm-\($0)" }.joined(separator: ", ")
    }
}
