// The signatures of disk formats that this program does not read. A file that carries one is never taken for a raw disk by
// itself: read as raw it is the wrong disk, written as raw it is destroyed.

public import DiskTypes

/// A disk format that QEMU knows and this program does not read. The raw value is QEMU's name of its driver.
public enum ForeignFormat: String, CaseIterable, Sendable {
    case bochs, cloop, dmg, luks, parallels, qcow, qed, vdi, vhdx, vmdk, vpc

    /// The format as people know it, with its article.
    public var name: String {
        switch self {
        case .bochs: "a Bochs image"
        case .cloop: "a cloop image"
        case .dmg: "a DMG image"
        case .luks: "a LUKS container"
        case .parallels: "a Parallels image"
        case .qcow: "a qcow image (version 1)"
        case .qed: "a QED image"
        case .vdi: "a VDI image"
        case .vhdx: "a VHDX image"
        case .vmdk: "a VMDK image"
        case .vpc: "a VHD image"
        }
    }

    /// Bytes that mark a format, and where they stand: so many bytes behind the file's start, or before its end.
    private struct Signature {
        enum Place { case start(Int), end(Int) }

        let format: ForeignFormat
        let place: Place
        let bytes: [UInt8]

        init(_ format: ForeignFormat, _ place: Place, _ bytes: [UInt8]) {
            (self.format, self.place, self.bytes) = (format, place, bytes)
        }
        init(_ format: ForeignFormat, _ place: Place, _ text: String) { self.init(format, place, Array(text.utf8)) }
    }

    /// From QEMU's block drivers (`bdrv_probe`), and, for footers that QEMU finds by a file's name only, from "Virtual Hard
    /// Disk Image Format Specification" 1.0 and the UDIF trailer of dmg files.
    private static let signatures: [Signature] = [
        Signature(.bochs, .start(0), "Bochs Virtual HD Image"),
        Signature(.cloop, .start(0), "#!/bin/sh\n#V2.0 Format\n"),
        // Size of the trailer behind its version.
        Signature(.dmg, .end(512), [0x6b, 0x6f, 0x6c, 0x79, 0, 0, 0, 4, 0, 0, 2, 0]),
        // Versions 1 and 2 alike.
        Signature(.luks, .start(0), [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]),
        Signature(.parallels, .start(0), "WithoutFreeSpace"),
        Signature(.parallels, .start(0), "WithouFreSpacExt"),
        Signature(.qcow, .start(0), [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 1]),
        Signature(.qed, .start(0), [0x51, 0x45, 0x44, 0]),
        Signature(.vdi, .start(64), [0x7f, 0x10, 0xda, 0xbe]),
        Signature(.vhdx, .start(0), "vhdxfile"),
        Signature(.vmdk, .start(0), "KDMV"),
        Signature(.vmdk, .start(0), "COWD"),
        // An extent of a sparse disk of VMware ESXi.
        Signature(.vmdk, .start(0), [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0]),
        Signature(.vmdk, .start(0), "# Disk DescriptorFile"),
        Signature(.vpc, .start(0), "conectix"),
        Signature(.vpc, .end(512), "conectix"),
        // The footer of Virtual PC before 2004 lacks the last byte.
        Signature(.vpc, .end(511), "conectix"),
    ]
    private static let sector = 512

    /// The format that the signatures of `file` name; nil: none of these. Reads the file's first and last 512 bytes, and
    /// throws what the file throws for them.
    public static func probe(_ file: some ByteSource) throws(ImageError) -> ForeignFormat? {
        let length = file.length
        let first = try file.read(at: HostOffset(0), count: sector)
        let last =
            length <= UInt64(sector) ? first : try file.read(at: HostOffset(length - UInt64(sector)), count: sector)
        for signature in signatures {
            let bytes =
                switch signature.place {
                case .start(let offset): first.dropFirst(offset)
                case .end(let distance): last.suffix(min(distance, last.count))
                }
            guard bytes.starts(with: signature.bytes) else { continue }
            if case .end(let distance) = signature.place, last.count < distance { continue }
            return signature.format
        }
        return isDescriptor(first) ? .vmdk : nil
    }

    /// Whether a text is a VMDK descriptor without its usual first line: behind comments and empty lines stands the version.
    private static func isDescriptor(_ text: [UInt8]) -> Bool {
        let newline = UInt8(ascii: "\n")
        for line in text.split(separator: newline, omittingEmptySubsequences: true) {
            if line.first == UInt8(ascii: "#") || line.allSatisfy({ $0 == UInt8(ascii: " ") || $0 == 13 }) { continue }
            return (1...3).contains { version in
                line.elementsEqual("version=\(version)".utf8) || line.elementsEqual("version=\(version)\r".utf8)
            }
        }
        return false
    }
}
