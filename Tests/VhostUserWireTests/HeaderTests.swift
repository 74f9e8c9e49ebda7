// A header decides how much is read next; what it may say is little.
import Testing
import VhostUserWire

struct HeaderTests {
    @Test func aHeaderIsReadAsWritten() throws {
        let header = MessageHeader(.getConfig, payloadBytes: 268, needsReply: true)
        #expect(header.encoded == [24, 0, 0, 0, 9, 0, 0, 0, 12, 1, 0, 0])
        #expect(try MessageHeader(decoding: header.encoded) == header)
        #expect(header.frontendRequest == .getConfig)
        #expect(header.needsReply && !header.isReply)
    }
    @Test func aReplyRepeatsTheRequestAndAsksForNothing() throws {
        let reply = MessageHeader(.setOwner, payloadBytes: 0, needsReply: true).reply(payloadBytes: 8)
        #expect(reply.encoded == [3, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0])
        #expect(reply.isReply && !reply.needsReply)
    }
    @Test func aWholeMessageIsHeaderAndPayload() {
        #expect(
            VringState(index: 1, num: 2).message(.setVringEnable)
                == [18, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])
        #expect(MessageHeader.bare(BackendRequest.configChange) == [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    }
    @Test func anAnswerGoesToTheMessageThatAskedForIt() throws {
        let asked = try MessageHeader(decoding: MessageHeader.bare(.resetDevice, needsReply: true))
        #expect(
            WireNumber(0).reply(to: asked) == [34, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0] + Array(repeating: 0, count: 8))
    }
    @Test(arguments: 0..<12) func aHeaderCutOffIsRefused(length: Int) {
        let bytes = Array(MessageHeader.bare(.setOwner).prefix(length))
        #expect(throws: WireError.headerCutOff(bytes: length)) { try MessageHeader(decoding: bytes) }
    }
    @Test(arguments: [UInt32(0), 2, 3]) func anotherVersionIsRefused(version: UInt32) {
        let bytes: [UInt8] = [1, 0, 0, 0, UInt8(version) | 0x8, 0, 0, 0, 0, 0, 0, 0]
        #expect(throws: WireError.wrongVersion(version)) { try MessageHeader(decoding: bytes) }
    }
    @Test func theLongestPayloadIsReadAndNoLonger() throws {
        #expect(try MessageHeader(decoding: [1, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0, 0]).payloadBytes == 4096)
        #expect(throws: WireError.payloadTooLong(bytes: 4097)) {
            try MessageHeader(decoding: [1, 0, 0, 0, 1, 0, 0, 0, 1, 0x10, 0, 0])
        }
        #expect(throws: WireError.payloadTooLong(bytes: .max)) {
            try MessageHeader(decoding: [1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        }
    }
    @Test(arguments: [UInt32(0), 45, .max]) func anUnknownRequestStillHasAHeader(code: UInt32) throws {
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: code >> (8 * $0)) } + [1, 0, 0, 0, 0, 0, 0, 0]
        let header = try MessageHeader(decoding: bytes)
        #expect(header.request == code)
        #expect(header.frontendRequest == nil)
    }
    /// An answer to it has its code, too.
    @Test func anUnknownRequestCanBeAnswered() throws {
        let header = try MessageHeader(decoding: [99, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0])
        #expect(WireNumber(1).reply(to: header).prefix(12) == [99, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0])
    }
}
