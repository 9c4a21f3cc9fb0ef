//! Protobuf on the wire as tonic does it, with buffers as large as what is in them.
//!
//! tonic's own codec keeps 8 KiB for each direction of every stream, idle or not. Start at [`Codec`].

use std::marker::PhantomData;

use bytes::BufMut;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// What a direction's buffer begins with, in bytes: a receipt or an acknowledgement fits.
const BUFFER_BYTES: usize = 256;
/// Bytes of encoded items that are handed on together: tonic's default.
const TOGETHER_BYTES: usize = 32 * 1024;
/// An item of so many bytes is a batch, which others follow: room is made for all that are handed on together, so that the buffer
/// does not grow, and is not copied, item by item.
const BATCH_BYTES: usize = 4 * 1024;

/// Makes the encoder and the decoder of a call.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SnugEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> SnugEncoder<T> {
        SnugEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

/// Encodes into room that it makes for each item.
#[derive(Debug)]
pub struct SnugEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SnugEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        if bytes > buffer.chunk_mut().len() {
            let following = if bytes < BATCH_BYTES { 0 } else { TOGETHER_BYTES };
            buffer.reserve(bytes + following);
        }
        // `encode` would only count the bytes again.
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tonic::{
        Streaming,
        codec::{Codec as _, EncodeBody},
    };

    use super::*;
    use crate::rpc::v1::Goodbye;

    #[tokio::test]
    async fn items_around_every_bound_come_out_as_they_went_in() {
        let around = [BUFFER_BYTES, BATCH_BYTES, TOGETHER_BYTES];
        let lengths = around.iter().flat_map(|bound| bound - 8..bound + 2);
        let items: Vec<_> = [0, 1]
            .into_iter()
            .chain(lengths)
            .map(|length| Goodbye {
                reason: "x".repeat(length),
                ..Goodbye::default()
            })
            .collect();
        let mut codec = Codec::<Goodbye, Goodbye>::default();
        let source = stream::iter(items.clone().into_iter().map(Ok));
        let body = EncodeBody::new_client(codec.encoder(), source, None, None);
        let mut decoded = Streaming::new_request(codec.decoder(), body, None, None);
        for item in items {
            assert_eq!(decoded.message().await.unwrap(), Some(item));
        }
        assert_eq!(decoded.message().await.unwrap(), None);
    }
}
