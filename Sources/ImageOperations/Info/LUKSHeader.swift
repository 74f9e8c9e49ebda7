// `info` names cipher, hash and key slots of LUKS images. It reads the header and nothing else; no key is asked for.

import DiskTypes

/// The LUKS version 1 header ("LUKS On-Disk Format Specification", version 1.2.3), all integers big-endian.
public struct LUKSHeader: Sendable {
    /// A place for one password's copy of the key.
    public struct Slot: Sendable {
        /// A password is stored here.
        public var isActive: Bool
        /// Rounds of PBKDF2 for the password.
        public var iterations: UInt32
        /// Bytes from the LUKS header's start.
        public var keyOffset: UInt64
        /// Stripes of the anti-forensic splitter that the key is spread over.
        public var stripes: UInt32
    }

    static let bytes = 592
    private static let magic: [UInt8] = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]
    private static let activeMark: UInt32 = 0x00ac_71f3

    /// The container's UUID, as text.
    public let uuid: String
    /// With the bits of its key: `aes-256`.
    public let cipher: String
    /// `xts`, `cbc`: the header's cipher-mode up to the dash.
    public let cipherMode: String
    /// `plain64`, `essiv`: what stands behind the dash.
    public let ivGenerator: String
    /// Only for the generator `essiv`.
    public let ivHash: String?
    /// The hash of PBKDF2 and of the splitter: `sha256`.
    public let hash: String
    /// Bytes from the header's start to the encrypted disk.
    public let payloadOffset: UInt64
    /// Rounds of PBKDF2 for the digest of the master key.
    public let iterations: UInt32
    /// All eight.
    public let slots: [Slot]

    /// Whether the bytes at a file's or an area's start are a LUKS header of version 1.
    static func isVersion1(_ bytes: [UInt8]) -> Bool { bytes.starts(with: magic + [0, 1]) }

    init(_ b: BigEndianBytes) throws(ImageError) {
        guard Self.isVersion1(b.bytes) else {
            throw .malformed("the LUKS header has no LUKS version 1 magic", at: b.base)
        }
        let name = try Self.text(b, 8, 32)
        let mode = try Self.text(b, 40, 32)
        hash = try Self.text(b, 72, 32)
        payloadOffset = UInt64(try b.u32(at: 104)) * 512
        let keyBytes = UInt64(try b.u32(at: 108))
        iterations = try b.u32(at: 164)
        uuid = try Self.text(b, 168, 40)
        // `xts-plain64`, `cbc-essiv:sha256`
        let parts = mode.split(separator: "-", maxSplits: 1)
        cipherMode = parts.first.map(String.init) ?? mode
        let generator = (parts.count > 1 ? parts[1] : "").split(separator: ":", maxSplits: 1)
        ivGenerator = generator.first.map(String.init) ?? ""
        // Other generators use no hash, even where the header names one.
        ivHash = ivGenerator == "essiv" && generator.count > 1 ? String(generator[1]) : nil
        // XTS keys are two keys.
        cipher = "\(name)-\(keyBytes * 8 / (cipherMode == "xts" ? 2 : 1))"
        var slots: [Slot] = []
        for at in stride(from: 208, to: Self.bytes, by: 48) {
            slots.append(
                Slot(
                    isActive: try b.u32(at: at) == Self.activeMark, iterations: try b.u32(at: at + 4),
                    keyOffset: UInt64(try b.u32(at: at + 40)) * 512, stripes: try b.u32(at: at + 44)))
        }
        self.slots = slots
    }

    private static func text(_ b: BigEndianBytes, _ at: Int, _ count: Int) throws(ImageError) -> String {
        String(decoding: try b.slice(at: at, count: count).prefix { $0 != 0 }, as: UTF8.self)
    }
}
