// From a path to a check of the file: its format, the right lock, and what of the pure checker's report becomes
// qemu-img's exit code and JSON.

public import DiskTypes
public import ImageChain
import LinuxIO
public import QCOW2
public import SystemPackage

/// Checks and repairs an image file. Opens nothing that the image refers to.
public enum FileCheck {
    /// What the caller decides about a check.
    public struct Request {
        /// How to open the image: its format, whether to lock it.
        public var options = OpenOptions()
        /// nil: only look.
        public var repair: RepairMode?
        /// How many findings the report names one by one; all are counted.
        public var findingLimit = 1000
        /// Stops the check when set: an error then.
        public var cancel = CancelFlag()
        /// Told now and then that `done` of `total` is checked; only their ratio has a meaning.
        public var progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
        /// Hears what the first check of a repair found.
        public var found: (CheckReport) -> Void = { _ in }

        /// Only looks, and tells of nothing.
        public init() {}
    }

    /// nil: the format has nothing to check.
    public static func run(_ path: FilePath, _ request: Request) throws(ImageError) -> CheckReport? {
        do {
            let readOnly = request.repair == nil
            let named = try ImageFormat.required(request.options.format, path: path, readOnly: readOnly)
            let file = try HostFile.open(path: path, writable: !readOnly, direct: .never)
            let format = if let named { named } else { try ImageFormat.probe(file) }
            guard format == .qcow2 else { return nil }
            if request.options.lock {
                try ImageLock.take(request.repair == nil ? .readOnlyImage : .writableImage, on: file)
            }
            // The lock's last holder may have made the file longer.
            _ = try file.currentLength()
            var options = CheckOptions()
            options.findingLimit = request.findingLimit
            options.progress = request.progress
            options.isInterrupted = { request.cancel.isSet }
            guard let mode = request.repair else { return try ImageCheck.check(file, options) }
            return try ImageCheck.repair(file, mode, options, found: request.found)
        } catch {
            throw error.named(path)
        }
    }
}

extension CheckReport {
    /// qemu-img's exit code for what is left.
    public var exitCode: Int32 {
        switch verdict {
        case .clean: 0
        case .corrupt: 2
        case .leaks: 3
        }
    }

    /// qemu-img's keys, in its order; numbers that are 0 are left out where it leaves them out.
    public func json(filename: FilePath) -> JSONValue {
        func some(_ value: UInt64) -> JSONValue? { value == 0 ? nil : .unsigned(value) }
        return .members([
            "image-end-offset": some(imageEnd.bytes),
            "total-clusters": some(totalClusters),
            "check-errors": .number(0),
            "corruptions": some(corruptions),
            "corruptions-fixed": some(corruptionsFixed),
            "leaks": some(leaks),
            "leaks-fixed": some(leaksFixed),
            "allocated-clusters": some(allocatedClusters),
            "fragmented-clusters": some(fragmentedClusters),
            "compressed-clusters": some(compressedClusters),
            "filename": .name(filename.name),
            "format": .string("qcow2"),
        ])
    }

    /// For people, each line ended: what was fixed, the verdict, the statistics.
    public var text: String {
        var out = ""
        if leaksFixed > 0 || corruptionsFixed > 0 {
            out += "Found and repaired:\n\n    \(leaksFixed) leaked clusters\n    \(corruptionsFixed) corruptions\n\n"
        }
        if verdict == .clean { out += "No errors were found on the image.\n" }
        if corruptions > 0 {
            out += "\(corruptions) errors were found on the image.\n"
            out += "Data may be corrupted, or further writes to the image may corrupt it.\n"
        }
        if leaks > 0 {
            out += "\(leaks) leaked clusters were found on the image.\n"
            out += "This means waste of disk space, but no harm to data.\n"
        }
        if totalClusters > 0, allocatedClusters > 0 {
            out += "\(allocatedClusters)/\(totalClusters) = \(percent(allocatedClusters, totalClusters)) allocated, "
            out += "\(percent(fragmentedClusters, allocatedClusters)) fragmented, "
            out += "\(percent(compressedClusters, allocatedClusters)) compressed clusters\n"
        }
        return out + "Image end offset: \(imageEnd.bytes)\n"
    }

    private func percent(_ part: UInt64, _ whole: UInt64) -> String {
        guard whole > 0 else { return "0.00%" }
        let hundredths = Int((Double(part) / Double(whole) * 10_000).rounded())
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)%"
    }
}
