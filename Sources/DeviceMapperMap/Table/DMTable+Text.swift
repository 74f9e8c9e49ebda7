// A table becomes what the kernel and `dmsetup` read: a target's name and parameters, with the devices that stand for
// the files.

public import DiskTypes
import LinuxIO
public import SystemPackage

/// What stands for the files of a chain and for zeros when a table is written out: `7:0`, or a path.
public struct DMDeviceNames: Equatable, Sendable {
    /// By number of the file in the chain.
    public var files: [UInt16: String]
    /// A device that reads as zeros; nil writes `zero` targets.
    public var zeros: String?

    /// Names to write as they are: the caller has escaped them.
    public init(files: [UInt16: String], zeros: String? = nil) {
        self.files = files
        self.zeros = zeros
    }

    /// The files' own paths, as `qblk table` prints them: to be replaced by the loop devices over them.
    ///
    /// Blanks are escaped the way the kernel reads parameters. A line break cannot be: a table is lines. Nor can
    /// what is not UTF-8: a table is text.
    public init(paths: [UInt16: FilePath]) throws(ImageError) {
        var escaped: [UInt16: String] = [:]
        for (file, path) in paths {
            guard let name = path.name.text, !name.utf8.contains(0x0a) else {
                throw ImageError.unsupported(
                    "a table cannot name a file whose path has a line break or is not UTF-8"
                ).named(path)
            }
            var text = ""
            for scalar in name.unicodeScalars {
                if scalar == " " || scalar == "\t" || scalar == "\\" { text += "\\" }
                text.unicodeScalars.append(scalar)
            }
            escaped[file] = text
        }
        self.init(files: escaped)
    }
}

/// One line as the kernel takes it.
public struct DMTarget: Equatable, Sendable {
    /// The first sector of the device.
    public var start: UInt64
    /// Sectors of 512 bytes.
    public var length: UInt64
    /// `linear`, `zero` or `error`.
    public var type: String
    /// What the type needs: for `linear` a device and a sector of it; else empty.
    public var parameters: String

    /// A line of `length` sectors from sector `start` on.
    public init(start: UInt64, length: UInt64, type: String, parameters: String = "") {
        self.start = start
        self.length = length
        self.type = type
        self.parameters = parameters
    }

    /// In dmsetup's syntax.
    public var text: String {
        parameters.isEmpty ? "\(start) \(length) \(type)" : "\(start) \(length) \(type) \(parameters)"
    }
}

extension DMTable {
    /// Line number `index` with devices filled in. A file without a name is written as `FILE<n>`.
    public func target(_ index: Int, names: DMDeviceNames) -> DMTarget {
        let line = lines[index]
        var target = DMTarget(start: line.start, length: line.length, type: "linear")
        switch line.source {
        case .file(let file): target.parameters = "\(names.files[file] ?? "FILE\(file)") \(line.offset)"
        case .error: target.type = "error"
        case .zeros:
            // Every run begins at the zero device's first sector: short numbers keep the ioctl small.
            if let zeros = names.zeros { target.parameters = "\(zeros) 0" } else { target.type = "zero" }
        }
        return target
    }

    /// The whole table in dmsetup's syntax, a line each, handed out in pieces of many lines.
    public func write(names: DMDeviceNames, to out: (String) -> Void) {
        var piece = ""
        for index in lines.indices {
            piece += target(index, names: names).text
            piece += "\n"
            if piece.utf8.count > 65536 {
                out(piece)
                piece = ""
            }
        }
        if !piece.isEmpty { out(piece) }
    }

    /// The whole table in dmsetup's syntax, a line each.
    public func text(names: DMDeviceNames) -> String {
        var whole = ""
        write(names: names) { whole += $0 }
        return whole
    }

    /// What stops this table from being loaded with these devices, if anything.
    public func obstacle(names: DMDeviceNames) -> DMUnsupported? {
        // Most tables are far from the limit, whatever their numbers: 20 digits at most.
        let longest = (names.files.values.map(\.utf8.count) + [names.zeros?.utf8.count ?? 0]).max() ?? 0
        let (most, overflow) = lines.count.multipliedReportingOverflow(
            by: DMLimits.ioctlBytes(parameters: longest + 21))
        if !overflow, most <= DMLimits.maxIoctlBytes - DMLimits.headerBytes { return nil }
        var bytes = DMLimits.headerBytes
        for index in lines.indices {
            bytes += DMLimits.ioctlBytes(parameters: target(index, names: names).parameters.utf8.count)
        }
        return bytes > DMLimits.maxIoctlBytes ? DMUnsupported(.tableTooLarge(bytes: bytes)) : nil
    }
}
